package ledger

import (
	"strings"
	"testing"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// A tag that is required and forbidden refuses every host there will ever be: it is
// the request that is wrong.
func TestATagThatIsRequiredAndForbiddenIsRefusedByItsField_P9(t *testing.T) {
	_, err := newWant("alice", &vmhostv1.ComposeMachineRequest{RequiredTags: []string{"a", "ssd"}, ForbiddenTags: []string{"old", "ssd"}})
	e := apierror.FromStatus(err)
	if e.Reason != vmhostv1.ErrorReason_INVALID_FIELD || len(e.Fields) != 1 || e.Fields[0].GetField() != "forbidden_tags[1]" || !strings.Contains(e.Message, "required_tags[1]") || e.Hint == "" {
		t.Errorf("got %v, fields %v, hint %q", err, e.Fields, e.Hint)
	}
}
