// Package proto is the contract of vmhost. The generated code is in gen; here is
// only the description of the public JSON API, for whoever serves it.
package proto

import _ "embed" // for the description

//go:embed openapi/vmhost.swagger.json
var openAPI string

// OpenAPI is the OpenAPI 2.0 description of the public API, as JSON.
func OpenAPI() string { return openAPI }
