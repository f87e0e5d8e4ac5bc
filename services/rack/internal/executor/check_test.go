package executor_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	"github.com/vmhost-project/vmhost/pkg/hypervisor/fake"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

func TestCheckSaysWhatStandsBetweenAnOperatorAndAHost(t *testing.T) {
	for _, test := range []struct {
		name    string
		host    fake.HostSpec
		prepare func(h *fake.Host)
		check   *rackv1.CheckHost
		want    string
	}{
		{
			name: "a good host without a key", check: &rackv1.CheckHost{},
			want: "reach=OK host-key=OK login=OK hypervisor=OK machine-types=OK kvm=OK storage-pool=OK network=OK uplink=OK",
		},
		{
			name: "a host key that is not confirmed", host: fake.HostSpec{HostKey: "k", Password: "p"},
			check: &rackv1.CheckHost{SealedCredential: seal("check/operations/c", "p")},
			want:  "reach=OK host-key=WARNING login=SKIPPED hypervisor=SKIPPED machine-types=SKIPPED kvm=SKIPPED storage-pool=SKIPPED network=SKIPPED uplink=SKIPPED",
		},
		{
			name: "all as it should be", host: fake.HostSpec{HostKey: "k", Password: "p"},
			check: &rackv1.CheckHost{HostKey: "k", SealedCredential: seal("check/operations/c", "p")},
			want:  "reach=OK host-key=OK login=OK hypervisor=OK machine-types=OK kvm=OK storage-pool=OK network=OK uplink=OK",
		},
		{
			name: "another host key", host: fake.HostSpec{HostKey: "k"}, check: &rackv1.CheckHost{HostKey: "x"},
			want: "reach=OK host-key=FAILED login=SKIPPED hypervisor=SKIPPED machine-types=SKIPPED kvm=SKIPPED storage-pool=SKIPPED network=SKIPPED uplink=SKIPPED",
		},
		{
			name: "a wrong password", host: fake.HostSpec{HostKey: "k", Password: "p"}, check: &rackv1.CheckHost{HostKey: "k"},
			want: "reach=OK host-key=OK login=FAILED hypervisor=SKIPPED machine-types=SKIPPED kvm=SKIPPED storage-pool=SKIPPED network=SKIPPED uplink=SKIPPED",
		},
		{
			name: "a credential sealed for something else", check: &rackv1.CheckHost{SealedCredential: seal("check/operations/other", "p")},
			want: "reach=SKIPPED host-key=SKIPPED login=FAILED hypervisor=SKIPPED machine-types=SKIPPED kvm=SKIPPED storage-pool=SKIPPED network=SKIPPED uplink=SKIPPED",
		},
		{
			name: "a host that is down", prepare: func(h *fake.Host) { h.Crash() }, check: &rackv1.CheckHost{},
			want: "reach=FAILED host-key=SKIPPED login=SKIPPED hypervisor=SKIPPED machine-types=SKIPPED kvm=SKIPPED storage-pool=SKIPPED network=SKIPPED uplink=SKIPPED",
		},
		{
			name: "a local address that cannot be opened", check: &rackv1.CheckHost{},
			prepare: func(h *fake.Host) { h.Fail(fake.Open, hypervisor.ErrUnreachable) },
			want:    "reach=FAILED host-key=SKIPPED login=SKIPPED hypervisor=SKIPPED machine-types=SKIPPED kvm=SKIPPED storage-pool=SKIPPED network=SKIPPED uplink=SKIPPED",
		},
		{
			name: "a login without a hypervisor behind it", host: fake.HostSpec{HostKey: "k"}, check: &rackv1.CheckHost{HostKey: "k"},
			prepare: func(h *fake.Host) { h.Fail(fake.Open, hypervisor.ErrUnreachable) },
			want:    "reach=OK host-key=OK login=SKIPPED hypervisor=FAILED machine-types=SKIPPED kvm=SKIPPED storage-pool=SKIPPED network=SKIPPED uplink=SKIPPED",
		},
		{
			name: "a hypervisor that does not answer", check: &rackv1.CheckHost{},
			prepare: func(h *fake.Host) { h.Hang(fake.Probe) },
			want:    "reach=OK host-key=OK login=OK hypervisor=FAILED machine-types=SKIPPED kvm=SKIPPED storage-pool=SKIPPED network=SKIPPED uplink=SKIPPED",
		},
		{
			name: "emulation", host: fake.HostSpec{Emulation: true}, check: &rackv1.CheckHost{},
			want: "reach=OK host-key=OK login=OK hypervisor=OK machine-types=OK kvm=WARNING storage-pool=OK network=OK uplink=OK",
		},
		{
			name: "no address", check: &rackv1.CheckHost{Address: "nonsense"},
			want: "reach=FAILED hypervisor=SKIPPED storage-pool=SKIPPED network=SKIPPED",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			bubble(t, 0, func(r *rig) {
				test.host.Name = "h1"
				host := r.fleet.AddHost(test.host)
				if test.prepare != nil {
					test.prepare(host)
				}
				if test.check.GetAddress() == "" {
					test.check.Type, test.check.Address = vmhostv1.VmHostType_VM_HOST_TYPE_FAKE, host.Address()
				}
				s := step("", "c", 0)
				s.VmHost, s.VmHostUid = "", ""
				s.Action = &rackv1.Step_CheckHost{CheckHost: test.check}
				r.Do(t.Context(), s)
				wait(10 * time.Minute)
				res := r.result("c")
				if res.GetError() != nil || res.GetCheck().GetRack() != "racks/r1" {
					t.Errorf("result %v", res)
				}
				var got []string
				for _, i := range res.GetCheck().GetItems() {
					status := strings.TrimPrefix(i.GetStatus().String(), "CHECK_STATUS_")
					got = append(got, i.GetCheck()+"="+status)
					if i.GetMessage() == "" || i.GetHint() == "" && (status == "FAILED" || status == "WARNING") {
						t.Errorf("P9: item %v does not say what to do", i)
					}
				}
				if diff := cmp.Diff(test.want, strings.Join(got, " ")); diff != "" {
					t.Errorf("items (-want +got):\n%s", diff)
				}
				if (res.GetCheck().GetObservation() != nil) != strings.Contains(test.want, "hypervisor=OK") {
					t.Errorf("observation %v", res.GetCheck().GetObservation())
				}
				if strings.Contains(test.want, "host-key=WARNING") && (res.GetCheck().GetHostKey() != "k" || res.GetCheck().GetFingerprint() == "" || host.Logins() != 0) {
					t.Errorf("key %q, fingerprint %q, %d logins", res.GetCheck().GetHostKey(), res.GetCheck().GetFingerprint(), host.Logins())
				}
			})
		})
	}
}
