package interceptor

import (
	"strings"
	"testing"

	"buf.build/go/protovalidate"
	"google.golang.org/protobuf/proto"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// What is wrong with a field is said in words of the contract: names of enums and
// not their numbers, and what a pattern means.
func TestWhatIsWrongWithAFieldIsSaidInWords_P9(t *testing.T) {
	v, err := protovalidate.New()
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		m           proto.Message
		field, says string
	}{
		{&vmhostv1.ComposeMachineRequest{Affinity: []*vmhostv1.AffinityRule{{Scope: vmhostv1.AffinityScope_AFFINITY_SCOPE_ZONE}}}, "affinity[0].kind", "AFFINITY_KIND_NEAR, AFFINITY_KIND_AWAY"},
		{&vmhostv1.ComposeMachineRequest{RequiredTags: []string{"Not A Tag!"}}, "required_tags[0]", "a-z, 0-9"},
		{&vmhostv1.WhatIfRequest{LostVmHosts: []string{"h1"}}, "lost_vm_hosts[0]", "must have the form vmHosts/{id}"},
		{&vmhostv1.CreateVmHostRequest{VmHostId: "Bad_Name", VmHost: &vmhostv1.VmHost{Address: "fake://h"}}, "vm_host_id", "lower-case letters"},
		{&vmhostv1.ComposeMachineRequest{Cores: -1}, "cores", "greater than or equal to 0"},
	} {
		e := apierror.FromStatus(validate(v, tt.m))
		found := false
		for _, f := range e.Fields {
			found = found || f.GetField() == tt.field && strings.Contains(f.GetDescription(), tt.says)
		}
		if !found || strings.Contains(e.Message, "regex") || strings.Contains(e.Message, "in list [") {
			t.Errorf("%s: %q, fields %v", tt.field, e.Message, e.Fields)
		}
	}
}
