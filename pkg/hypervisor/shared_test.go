package hypervisor

import (
	"strings"
	"testing"
)

func TestTheWordForASharedPoolIsPrintableAndBounded(t *testing.T) {
	if got := SharedIdentity("nfs", "nas", "a b%ä"); got != "nfs://nas/a%20b%25%C3%A4" {
		t.Error(got)
	}
	long := strings.Repeat("x", maxIdentity)
	a, b := SharedIdentity("nfs", "nas", long+"1"), SharedIdentity("nfs", "nas", long+"2")
	if len(a) > maxIdentity || a == b || !strings.HasPrefix(a, "nfs://") {
		t.Errorf("%q, %q", a, b)
	}
}
