package obs

// Metrics. Base units, and no label that grows with machines.
const (
	// MetricBuildInfo tells builds apart: component, version, go_version.
	MetricBuildInfo = "vmhost_build_info"
	// MetricHTTPRequests counts answered requests: route (a pattern), method, code.
	MetricHTTPRequests = "vmhost_http_requests_total"
	// MetricHTTPDuration is the time to answer: route, method.
	MetricHTTPDuration = "vmhost_http_request_duration_seconds"
	// MetricHTTPInFlight is how many requests are being answered.
	MetricHTTPInFlight = "vmhost_http_requests_in_flight"
)

// Keys of log records.
const (
	// KeyComponent is the part of vmhost that logs.
	KeyComponent = "component"
	// KeyError is what went wrong.
	KeyError = "error"
	// KeyRequestID follows a request through gateway and region.
	KeyRequestID = "request_id"
)
