package lxd

import (
	"strings"
	"testing"
	"time"

	lxdapi "github.com/canonical/lxd/shared/api"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	"github.com/vmhost-project/vmhost/pkg/hypervisor/lxdtest"
)

// A machine that is given away does not say any more that vmhost made it, and
// its volumes do not; what somebody else wrote there stays. It can be taken over
// again.
func TestRealAMachineThatIsGivenAwayDoesNotSayThatItIsOurs(t *testing.T) {
	s := lxdtest.Devhost(t, "lxd1")
	o := outside{Server: s, project: "default"}
	d := overSocket(t, s, "")
	for name, words := range map[string]string{"untouched": "", "described by somebody": "the database"} {
		t.Run(name, func(t *testing.T) { givenAway(t, o, d, words) })
	}
}

func givenAway(t *testing.T, o outside, d *Driver, words string) {
	t.Helper()
	ctx := timeout(t, time.Minute)
	c := container(t, d, "")
	m := c.GetMachine()
	if _, err := d.Create(ctx, c); err != nil {
		t.Fatal(err)
	}
	volume := "/1.0/storage-pools/default/volumes/custom/" + m.GetDisks()[1].GetVolume()
	if words != "" {
		o.Lxc(t, "query", "--request", "PATCH", "--data", `{"description":"`+words+`"}`, "/1.0/instances/"+m.GetHypervisorName())
		o.Lxc(t, "query", "--request", "PATCH", "--data", `{"description":"`+words+`"}`, volume)
	}
	ref := hypervisor.Ref{UID: m.GetUid(), UUID: m.GetUid(), Name: m.GetHypervisorName()}
	for range 2 { // given away already is done
		if out, err := d.Release(ctx, ref); err != nil || out.GetUid() != "" {
			t.Fatalf("release: %v, %v", out, err)
		}
	}
	var i lxdapi.Instance
	o.query(t, &i, "/1.0/instances/"+m.GetHypervisorName())
	var v lxdapi.StorageVolume
	o.query(t, &v, volume)
	if i.Description != words || v.Description != words {
		t.Errorf("described as %q, its volume as %q; want %q", i.Description, v.Description, words)
	}
	for _, config := range []map[string]string{i.Config, v.Config} {
		for key := range config {
			if strings.HasPrefix(key, labelPrefix) {
				t.Errorf("it still has %s", key)
			}
		}
	}
	if v.Config["size"] == "" {
		t.Errorf("the volume lost its size: %v", v.Config)
	}
	if out, err := d.Adopt(ctx, ref, "operations/2"); err != nil || out.GetUid() != m.GetUid() {
		t.Errorf("adopt it again: %v, %v", out, err)
	}
}
