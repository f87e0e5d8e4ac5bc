package lxd

import (
	"errors"
	"strconv"
	"strings"
	"testing"

	lxdapi "github.com/canonical/lxd/shared/api"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// A volume of a name that this machine's would have is taken for it only if it is as
// large, but for what LXD rounds; otherwise both sizes are said, and never alike.
func TestAVolumeOfAnotherSizeIsNotTaken_P3(t *testing.T) {
	const gib = 1 << 30
	for _, test := range []struct {
		has, wants int64
		says       string
	}{
		{10 * gib, 10 * gib, ""},
		{10*gib + rounding, 10 * gib, ""},
		{20 * gib, 10 * gib, "of 20 GiB, where this machine's has 10 GiB"},
		{40e9, 50e9, "of 37.2 GiB, where this machine's has 46.6 GiB"},
		{10*gib - 1, 10 * gib, "of 9.9 GiB, where this machine's has 10 GiB"},
	} {
		v := &lxdapi.StorageVolume{Name: volumePrefix("u") + "1", ContentType: contentBlock, Config: map[string]string{"size": strconv.FormatInt(test.has, 10)}}
		err := takeVolume(v, "p", "u", &vmhostv1.MachineDisk{Volume: v.Name, SizeBytes: test.wants}, contentBlock)
		if test.says == "" {
			if err != nil {
				t.Errorf("%d for %d: %v", test.has, test.wants, err)
			}
			continue
		}
		if !errors.Is(err, hypervisor.ErrForeign) || !strings.HasSuffix(err.Error(), test.says) {
			t.Errorf("%d for %d: %v, want %q", test.has, test.wants, err, test.says)
		}
	}
}
