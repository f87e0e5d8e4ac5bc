//go:build pins

// Package pins holds the versions of design time in go.mod until code imports
// them: `go mod tidy` looks at every build tag. No build ever sees this file.
// Take out what is imported elsewhere; delete the file when it is empty.
package pins

import (
	_ "github.com/anishathalye/porcupine"
	_ "github.com/google/go-cmp/cmp"
	_ "go.etcd.io/etcd/client/v3"
	_ "go.etcd.io/etcd/tests/v3/framework/integration"
	_ "google.golang.org/grpc"
	_ "google.golang.org/protobuf/proto"
	_ "pgregory.net/rapid"

	_ "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)
