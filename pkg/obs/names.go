package obs

// Metrics. Base units, and no label that grows with machines; only what is said
// of a host has the host as label.
const (
	// MetricBuildInfo tells builds apart: component, version, go_version.
	MetricBuildInfo = "vmhost_build_info"
	// MetricHTTPRequests counts answered requests: route (a pattern), method, code.
	MetricHTTPRequests = "vmhost_http_requests_total"
	// MetricHTTPDuration is the time to answer: route, method.
	MetricHTTPDuration = "vmhost_http_request_duration_seconds"
	// MetricHTTPInFlight is how many requests are being answered.
	MetricHTTPInFlight = "vmhost_http_requests_in_flight"

	// What follows is of the fleet, and every region says the same: take the max
	// of regions, not the sum.

	// MetricHosts is how many hosts there are: state.
	MetricHosts = "vmhost_hosts"
	// MetricMachines is how many machines have a record: phase.
	MetricMachines = "vmhost_machines"
	// MetricMachinesMissing is how many of them a host that is reached does not show.
	MetricMachinesMissing = "vmhost_machines_missing"
	// MetricOperations is how many operations have not ended: verb, phase.
	MetricOperations = "vmhost_operations"
	// MetricRacks is how many racks are enrolled: connected (true, false).
	MetricRacks = "vmhost_racks"
	// MetricHostCores is a host's cores: vm_host, kind (limit, committed, foreign).
	MetricHostCores = "vmhost_host_cores"
	// MetricHostMemory is a host's memory: vm_host, kind.
	MetricHostMemory = "vmhost_host_memory_bytes"
	// MetricHostStoragePool is a storage pool: vm_host, storage_pool, kind.
	MetricHostStoragePool = "vmhost_host_storage_pool_bytes"

	// These are of one region: sum them.

	// MetricLedgerConflicts counts transactions of composes that lost a race.
	MetricLedgerConflicts = "vmhost_ledger_conflicts_total"
	// MetricOperationDuration is how long operations took, from being asked for to
	// their end: verb, result (succeeded, failed, cancelled).
	MetricOperationDuration = "vmhost_operation_duration_seconds"
	// MetricConsoles is how many consoles are open, logs that are read included.
	MetricConsoles = "vmhost_consoles"
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
