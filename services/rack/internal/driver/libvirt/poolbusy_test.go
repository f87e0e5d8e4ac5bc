package libvirt

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	lv "github.com/digitalocean/go-libvirt"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
)

// making is a host on which a volume is being made so often as its pool is read.
type making struct {
	api

	left int
	err  error
}

func (m *making) StoragePoolRefresh(lv.StoragePool, uint32) error {
	if m.left > 0 {
		m.left--
		return lv.Error{Code: uint32(lv.ErrInternalError), Message: "internal error: pool 'default' has asynchronous jobs running."}
	}
	return m.err
}

// Machines are made and moved at the same time. That libvirt makes a volume is no
// failure of whoever wants its pool read anew, and lasts.
func TestAPoolIsReadAnewWhenNoVolumeOfItIsBeingMade(t *testing.T) {
	broken := lv.Error{Code: uint32(lv.ErrInternalError), Message: "internal error: cannot open the folder"}
	for name, test := range map[string]struct {
		left int
		err  error
		want error
	}{
		"at once":     {},
		"later":       {left: 5},
		"never":       {left: 1e6, want: hypervisor.ErrBusy},
		"it fails":    {err: broken, want: broken},
		"it fails so": {left: 3, err: broken, want: broken},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := &Driver{conn: &conn{
					api: &making{left: test.left, err: test.err}, dead: make(chan struct{}), slots: make(chan struct{}, callsAtOnce), slow: make(chan struct{}, slowCallsAtOnce),
				}}
				began := time.Now()
				ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
				defer cancel()
				if err := d.refreshPool(ctx, pool{name: "default"}); !errors.Is(err, test.want) {
					t.Errorf("error %v, want %v", err, test.want)
				}
				if took := time.Since(began); took > busyTime {
					t.Errorf("it took %v", took)
				}
			})
		})
	}
}
