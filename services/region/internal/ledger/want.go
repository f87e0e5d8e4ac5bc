package ledger

import (
	"cmp"
	"crypto/rand"
	"fmt"
	random "math/rand/v2"
	"slices"
	"strings"
	"time"

	petname "github.com/dustinkirkland/golang-petname"
	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/placement"
	"github.com/vmhost-project/vmhost/services/region/internal/policy"
	"github.com/vmhost-project/vmhost/services/region/internal/request"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

const (
	defaultMemoryMiB = 2048
	defaultPool      = "default"
)

// want is a compose request with every default filled in and everything random
// chosen, so that deciding again gives the same machine.
type want struct {
	req          *vmhostv1.ComposeMachineRequest
	principal    string
	id           request.ID
	place        placement.Request
	policy       *policy.Policy // as of the view that was decided on
	uid          string
	operationUID string
	hostname     string // empty: made up when placed
	macs         []string
	now          time.Time
}

// newWant normalizes a request that has passed validation of its single fields.
func newWant(principal string, in *vmhostv1.ComposeMachineRequest) (*want, error) {
	id, err := request.New(principal, "ComposeMachine", in)
	if err != nil {
		return nil, err
	}
	req := proto.CloneOf(in)
	if req.GetReservation() != "" {
		return nil, apierror.InvalidField("reservation", "is for composes").WithHint("leave it out")
	}
	w := &want{req: req, principal: principal, id: id, hostname: req.GetHostname(), now: time.Now()}
	w.place = placement.Request{
		Type:  cmp.Or(req.GetType(), vmhostv1.MachineType_MACHINE_TYPE_VIRTUAL_MACHINE),
		Cores: max(req.GetCores(), 1), MemoryMiB: req.GetMemoryMib(), Architecture: req.GetArchitecture(),
		RequiredTags: req.GetRequiredTags(), ForbiddenTags: req.GetForbiddenTags(),
		Hugepages: req.GetHugepages(), SecureBoot: req.GetSecureBoot(), Profiles: req.GetProfiles(), Image: req.GetImage(),
	}
	for i, tag := range req.GetForbiddenTags() {
		if j := slices.Index(req.GetRequiredTags(), tag); j >= 0 {
			return nil, apierror.InvalidField(fmt.Sprintf("forbidden_tags[%d]", i), "contradicts required_tags[%d]: no host has the tag %s and has it not", j, tag).
				WithHint("leave the tag out of one of them")
		}
	}
	if err := w.kind(); err != nil {
		return nil, err
	}
	if err := w.pin(); err != nil {
		return nil, err
	}
	if err := w.prefer(); err != nil {
		return nil, err
	}
	if w.place.MemoryMiB == 0 {
		w.place.MemoryMiB = defaultMemoryMiB
	}
	if w.place.ResourcePool, err = idOf("resource_pool", "resourcePools/", req.GetResourcePool()); err != nil {
		return nil, err
	}
	if w.place.ResourcePool == "" {
		w.place.ResourcePool = defaultPool
	}
	if w.place.Zone, err = idOf("zone", "zones/", req.GetZone()); err != nil {
		return nil, err
	}
	if w.place.VMHost, err = idOf("vm_host", "vmHosts/", req.GetVmHost()); err != nil {
		return nil, err
	}
	if err := w.disks(); err != nil {
		return nil, err
	}
	if err := w.interfaces(); err != nil {
		return nil, err
	}
	// Of version 7, as that of the operation: machines that are made together are
	// beside one another in etcd's index and in the copy.
	machine, err := uuid.NewV7()
	if err != nil {
		return nil, fmt.Errorf("choose a machine uid: %w", err)
	}
	operation, err := uuid.NewV7()
	if err != nil {
		return nil, fmt.Errorf("choose an operation uid: %w", err)
	}
	w.uid, w.operationUID = machine.String(), operation.String()
	return w, nil
}

// amount is what the machine will take of its pool's quota.
func (w *want) amount() *vmhostv1.ResourceAmount {
	a := &vmhostv1.ResourceAmount{Machines: 1, Cores: int64(w.place.Cores), MemoryMib: w.place.MemoryMiB}
	for _, d := range w.place.Disks {
		a.StorageBytes += d.SizeBytes
	}
	return a
}

func idOf(field, collection, name string) (string, error) {
	if name == "" {
		return "", nil
	}
	id, ok := strings.CutPrefix(name, collection)
	if !ok || id == "" || strings.Contains(id, "/") {
		return "", apierror.InvalidField(field, "must have the form %s{id}", collection)
	}
	return id, nil
}

// chooseMACs fills in the MACs that the request left open, others than those that
// the decision takes already, and refuses one it names that another machine has.
func (w *want) chooseMACs(v *store.View, x *index, taken map[string]bool) error {
	for i, n := range w.req.GetInterfaces() {
		drawn := n.GetMac() == ""
		free := func(mac string) bool {
			return x.macOwner(v, mac) == "" && (!drawn || !taken[mac] && !slices.Contains(w.macs[:i], mac))
		}
		switch {
		case w.macs[i] != "" && free(w.macs[i]):
		case drawn: // none yet, or somebody else has drawn it since
			chosen, err := newMAC(free)
			if err != nil {
				return err
			}
			w.macs[i] = chosen
		default:
			field, owner := fmt.Sprintf("interfaces[%d].mac", i), x.macOwner(v, w.macs[i])
			return apierror.InvalidField(field, "is that of another machine, %s", strings.TrimPrefix(owner, store.Root))
		}
	}
	return nil
}

// newMAC is one of QEMU's range that is free.
func newMAC(free func(string) bool) (string, error) {
	const tries = 100
	for range tries {
		b := random.Uint32() //nolint:gosec // nobody is to be kept from guessing it
		mac := string(appendMAC([]byte("52:54:00"), byte(b>>16), byte(b>>8), byte(b)))
		if free(mac) {
			return mac, nil
		}
	}
	return "", fmt.Errorf("no free MAC found in %d tries", tries)
}

func appendMAC(mac []byte, last ...byte) []byte {
	const digits = "0123456789abcdef"
	for _, b := range last {
		mac = append(mac, ':', digits[b>>4], digits[b&0xf])
	}
	return mac
}

// madeUp is a hostname of two words that is free according to taken.
func madeUp(taken func(string) bool) string {
	const tries = 20
	for range tries {
		if name := petname.Generate(2, "-"); len(name) <= 63 && !taken(name) {
			return name
		}
	}
	// Most pairs are in use in a large pool; a suffix makes sure.
	return petname.Generate(2, "-") + "-" + strings.ToLower(rand.Text()[:6])
}

func splitSeen(id string) (host, uuid string) {
	host, uuid, _ = strings.Cut(id, "/")
	return host, uuid
}
