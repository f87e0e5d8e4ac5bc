package client

import (
	"encoding/json"
	"fmt"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"

	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

type methodName struct {
	Service string `json:"service"`
	Method  string `json:"method"`
}

// ServiceConfig is the gRPC service configuration for callers of a region: calls
// go to its replicas in turn, and those that only read (Get and List methods)
// are tried up to four times while a replica is unavailable.
func ServiceConfig() (string, error) {
	config := map[string]any{
		"loadBalancingConfig": []any{map[string]any{"round_robin": map[string]any{}}},
		"methodConfig": []any{map[string]any{
			"name": reads(),
			"retryPolicy": map[string]any{
				"maxAttempts": 4, "initialBackoff": "0.1s", "maxBackoff": "2s", "backoffMultiplier": 2,
				"retryableStatusCodes": []string{"UNAVAILABLE"},
			},
		}},
		// Many failures in a row mean that retries only add load.
		"retryThrottling": map[string]any{"maxTokens": 100, "tokenRatio": 0.1},
	}
	b, err := json.Marshal(config)
	if err != nil {
		return "", fmt.Errorf("make service configuration: %w", err)
	}
	return string(b), nil
}

// reads are the methods that change nothing, by their names in the contract.
func reads() []methodName {
	var names []methodName
	for _, file := range []protoreflect.FileDescriptor{
		vmhostv1.File_vmhost_v1_event_service_proto,
		vmhostv1.File_vmhost_v1_machine_service_proto,
		vmhostv1.File_vmhost_v1_operation_service_proto,
		vmhostv1.File_vmhost_v1_rack_service_proto,
		vmhostv1.File_vmhost_v1_resource_pool_service_proto,
		vmhostv1.File_vmhost_v1_vm_host_service_proto,
		vmhostv1.File_vmhost_v1_zone_service_proto,
	} {
		for i := range file.Services().Len() {
			service := file.Services().Get(i)
			for j := range service.Methods().Len() {
				method := string(service.Methods().Get(j).Name())
				if strings.HasPrefix(method, "Get") || strings.HasPrefix(method, "List") {
					names = append(names, methodName{string(service.FullName()), method})
				}
			}
		}
	}
	return names
}
