package interceptor

import (
	"slices"
	"strings"
	"testing"

	rules "buf.build/gen/go/bufbuild/protovalidate/protocolbuffers/go/buf/validate"
	"google.golang.org/genproto/googleapis/api/annotations"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// methods are all methods of the public API, from the contract itself.
func methods(t *testing.T) []protoreflect.MethodDescriptor {
	t.Helper()
	var found []protoreflect.MethodDescriptor
	protoregistry.GlobalFiles.RangeFilesByPackage("vmhost.v1", func(file protoreflect.FileDescriptor) bool {
		for i := range file.Services().Len() {
			service := file.Services().Get(i)
			for j := range service.Methods().Len() {
				found = append(found, service.Methods().Get(j))
			}
		}
		return true
	})
	if len(found) < 35 {
		t.Fatalf("found %d methods only", len(found))
	}
	return found
}

func fullName(m protoreflect.MethodDescriptor) string {
	return "/" + string(m.Parent().FullName()) + "/" + string(m.Name())
}

// reads says whether a method only looks, by its name.
func reads(m protoreflect.MethodDescriptor) bool {
	for _, verb := range []string{"Get", "List", "Watch", "Wait", "Explain", "Capacity", "WhatIf", "Rebalance"} {
		if strings.HasPrefix(string(m.Name()), verb) {
			return true
		}
	}
	return false
}

// served are all methods that a region's API server registers.
func served() map[string]bool {
	s := grpc.NewServer()
	vmhostv1.RegisterVmHostServiceServer(s, vmhostv1.UnimplementedVmHostServiceServer{})
	vmhostv1.RegisterMachineServiceServer(s, vmhostv1.UnimplementedMachineServiceServer{})
	vmhostv1.RegisterOperationServiceServer(s, vmhostv1.UnimplementedOperationServiceServer{})
	vmhostv1.RegisterZoneServiceServer(s, vmhostv1.UnimplementedZoneServiceServer{})
	vmhostv1.RegisterResourcePoolServiceServer(s, vmhostv1.UnimplementedResourcePoolServiceServer{})
	vmhostv1.RegisterRackServiceServer(s, vmhostv1.UnimplementedRackServiceServer{})
	vmhostv1.RegisterEventServiceServer(s, vmhostv1.UnimplementedEventServiceServer{})
	vmhostv1.RegisterReservationServiceServer(s, vmhostv1.UnimplementedReservationServiceServer{})
	vmhostv1.RegisterPlacementServiceServer(s, vmhostv1.UnimplementedPlacementServiceServer{})
	vmhostv1.RegisterPlacementPolicyServiceServer(s, vmhostv1.UnimplementedPlacementPolicyServiceServer{})
	grpc_health_v1.RegisterHealthServer(s, health.NewServer())
	reflection.Register(s)
	found := map[string]bool{}
	for service, info := range s.GetServiceInfo() {
		for _, m := range info.Methods {
			found["/"+service+"/"+m.Name] = true
		}
	}
	return found
}

func TestEveryMethodHasARowInThePolicyAndEveryRowAMethod(t *testing.T) {
	policy, registered := APIPolicy(), served()
	for _, m := range methods(t) {
		if !registered[fullName(m)] {
			t.Errorf("%s is in the contract and not served: add its service to this test and to the API", fullName(m))
		}
	}
	for method := range registered {
		if _, ok := policy[method]; !ok {
			t.Errorf("%s has no row", method)
		}
	}
	for method := range policy {
		if !registered[method] {
			t.Errorf("the row %s is of no method", method)
		}
	}
}

func TestAViewerChangesNothingAndNobodyIsLetInWithoutAToken(t *testing.T) {
	policy := APIPolicy()
	for _, m := range methods(t) {
		role := policy[fullName(m)]
		switch {
		case role == Public:
			t.Errorf("%s is open to everybody", fullName(m))
		case !reads(m) && role <= storev1.Role_ROLE_VIEWER:
			t.Errorf("%s changes something and is open to viewers", fullName(m))
		}
	}
}

// once are mutations that the contract gives no request_id: repeating them does
// no harm, or makes something that ends by itself.
var once = []string{"CreateJoinToken", "DeleteJoinToken", "DeleteRack", "CancelOperation", "QueryMachinePower", "ReadConsoleLog", "AttachConsole"}

func TestEveryMutationCanBeRepeatedAndTried(t *testing.T) {
	for _, m := range methods(t) {
		if reads(m) {
			continue
		}
		fields := m.Input().Fields()
		has := fields.ByName("request_id") != nil && fields.ByName("validate_only") != nil
		if has == slices.Contains(once, string(m.Name())) {
			t.Errorf("%s: request_id and validate_only %v; correct it, or the list of exceptions", m.FullName(), has)
		}
	}
}

func TestEveryListPages(t *testing.T) {
	for _, m := range methods(t) {
		if !strings.HasPrefix(string(m.Name()), "List") || m.Name() == "ListJoinTokens" { // at most a few, and none older than a day
			continue
		}
		for _, field := range []protoreflect.Name{"page_size", "page_token", "filter"} {
			if m.Input().Fields().ByName(field) == nil {
				t.Errorf("%s has no %s", m.Input().FullName(), field)
			}
		}
		if m.Output().Fields().ByName("next_page_token") == nil {
			t.Errorf("%s has no next_page_token", m.Output().FullName())
		}
	}
}

func TestEveryResourceHasWhatResourcesHave(t *testing.T) {
	resources := 0
	protoregistry.GlobalFiles.RangeFilesByPackage("vmhost.v1", func(file protoreflect.FileDescriptor) bool {
		for i := range file.Messages().Len() {
			m := file.Messages().Get(i)
			if !proto.HasExtension(m.Options(), annotations.E_Resource) {
				continue
			}
			resources++
			want := []protoreflect.Name{"name", "uid", "etag", "create_time"}
			if m.Name() == "Operation" {
				want = []protoreflect.Name{"name", "create_time"} // its name is its uid, and only vmhost changes it
			}
			for _, field := range want {
				if m.Fields().ByName(field) == nil {
					t.Errorf("%s has no %s", m.Name(), field)
				}
			}
		}
		return true
	})
	if resources < 6 {
		t.Errorf("found %d resources only", resources)
	}
}

// TestEverythingThatCanBeSentIsBounded walks all fields of all requests that a
// client may fill.
func TestEverythingThatCanBeSentIsBounded(t *testing.T) {
	walked := map[protoreflect.FullName]bool{}
	var walk func(m protoreflect.MessageDescriptor)
	walk = func(m protoreflect.MessageDescriptor) {
		if walked[m.FullName()] || strings.HasPrefix(string(m.FullName()), "google.protobuf.") {
			return
		}
		walked[m.FullName()] = true
		for i := range m.Fields().Len() {
			f := m.Fields().Get(i)
			if outputOnly(f) {
				continue
			}
			if !bounded(f) {
				t.Errorf("%s is not bounded", f.FullName())
			}
			if f.Message() != nil {
				walk(f.Message())
			}
		}
	}
	for _, m := range methods(t) {
		walk(m.Input())
	}
	if len(walked) < 40 {
		t.Errorf("walked %d messages only", len(walked))
	}
}

func outputOnly(f protoreflect.FieldDescriptor) bool {
	behaviour, _ := proto.GetExtension(f.Options(), annotations.E_FieldBehavior).([]annotations.FieldBehavior)
	// Names in resources are checked by the API, which knows what they may be.
	return slices.Contains(behaviour, annotations.FieldBehavior_OUTPUT_ONLY) || slices.Contains(behaviour, annotations.FieldBehavior_IDENTIFIER)
}

func bounded(f protoreflect.FieldDescriptor) bool {
	r, _ := proto.GetExtension(f.Options(), rules.E_Field).(*rules.FieldRules)
	if f.IsList() {
		return r.GetRepeated().HasMaxItems() && (f.Kind() != protoreflect.StringKind || boundedString(r.GetRepeated().GetItems().GetString()))
	}
	switch f.Kind() {
	case protoreflect.StringKind:
		return boundedString(r.GetString())
	case protoreflect.Int32Kind:
		return r.GetInt32().HasGte() && r.GetInt32().HasLte()
	case protoreflect.Int64Kind:
		return r.GetInt64().HasGte() && r.GetInt64().HasLte()
	case protoreflect.DoubleKind:
		return r.GetDouble().HasGte() && r.GetDouble().HasLte() && r.GetDouble().GetFinite()
	case protoreflect.BytesKind:
		return r.GetBytes().HasMaxLen()
	case protoreflect.EnumKind:
		return r.GetEnum().GetDefinedOnly()
	case protoreflect.BoolKind, protoreflect.MessageKind:
		return true // the fields of a message are walked
	default:
		return false
	}
}

// boundedString: a length, a pattern that is anchored and repeats nothing
// without end, or a form of known length.
func boundedString(r *rules.StringRules) bool {
	p := r.GetPattern()
	anchored := strings.HasPrefix(p, "^") && strings.HasSuffix(p, "$") && !strings.ContainsAny(p, "*+")
	// `vmHosts/*` style stars do not occur in patterns; a class with `*` has max_len.
	return r.HasMaxLen() || anchored || r.GetUuid()
}
