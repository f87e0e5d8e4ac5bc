package lxd

import (
	"testing"

	lxdapi "github.com/canonical/lxd/shared/api"
)

func TestAPoolOfTheWholeClusterSaysWhatIsBehindIt(t *testing.T) {
	for _, tt := range []struct{ driver, cluster, want string }{
		{"ceph", "abc", "ceph://abc/remote"},
		{"cephfs", "abc", "cephfs://abc/remote"},
		{"powerflex", "abc", "powerflex://abc/remote"},
		{"dir", "abc", ""},
		{"zfs", "abc", ""},
		{"btrfs", "abc", ""},
		{"lvm", "abc", ""},
		{"ceph", "", ""}, // a server that says nothing of itself
	} {
		p := &pool{lxdapi.StoragePool{Name: "remote", Driver: tt.driver}}
		if got := p.shared(tt.cluster); got != tt.want {
			t.Errorf("%s of %q: %q, want %q", tt.driver, tt.cluster, got, tt.want)
		}
	}
}
