package libvirt

import (
	"testing"

	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// A volume of a name that this machine's would have is taken for it only if it is as
// large, but for what its kind of pool rounds; otherwise both sizes are said, and
// never alike.
func TestAVolumeOfAnotherSizeIsNotTaken_P3(t *testing.T) {
	const gib = 1 << 30
	for _, test := range []struct {
		block bool
		has   uint64
		wants int64
		says  string
	}{
		{false, 10 * gib, 10 * gib, ""},
		{false, 10 * gib, 10*gib - 100, ""},
		{false, 10*gib + kibibyte, 10 * gib, ""},
		{true, 10*gib + extent, 10 * gib, ""},
		{true, 10*gib + extent + 1, 10 * gib, "of 10.2 GiB, where this machine's has 10 GiB"},
		{false, 20 * gib, 10 * gib, "of 20 GiB, where this machine's has 10 GiB"},
		{false, 40e9, 50e9, "of 37.2 GiB, where this machine's has 46.6 GiB"},
		{false, 10*gib - 1, 10 * gib, "of 9.9 GiB, where this machine's has 10 GiB"},
		{false, 10*gib + 2*kibibyte, 10 * gib, "of 10737420288 bytes, where this machine's has 10737418240 bytes"},
	} {
		if got := otherSize(test.block, test.has, &vmhostv1.MachineDisk{SizeBytes: test.wants}); got != test.says {
			t.Errorf("%d for %d: %q, want %q", test.has, test.wants, got, test.says)
		}
	}
}
