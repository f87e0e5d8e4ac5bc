package component

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	"github.com/vmhost-project/vmhost/pkg/hypervisor/fake"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/rack/racktest"
	"github.com/vmhost-project/vmhost/services/region/regiontest"
)

// flapping is a region with a host that comes and goes and one that stays, each
// with a rack of its own, and composes that are sent all the while.
type flapping struct {
	t            *testing.T
	r            *regiontest.Region
	flaps, stays *fake.Host
	way          *line // of the rack of the host that flaps
	rack         racktest.Options
	stopRack     func() error
	todo         chan int
	next         int
	stopSending  func()

	mu       sync.Mutex
	requests map[int]*vmhostv1.ComposeMachineRequest
	accepted map[int]*vmhostv1.Operation
	refused  map[int]bool
}

func newFlapping(t *testing.T) *flapping {
	t.Helper()
	const senders, room = 4, 256
	r := start(t, regiontest.NewEtcd(t))
	fleet := fake.NewFleet(fake.HostSpec{Name: "flaps", Cores: room}, fake.HostSpec{Name: "stays", Cores: room})
	f := &flapping{
		t: t, r: r, flaps: fleet.Host("flaps"), stays: fleet.Host("stays"), way: newLine(t, r.RackEndpoint), todo: make(chan int),
		requests: map[int]*vmhostv1.ComposeMachineRequest{}, accepted: map[int]*vmhostv1.Operation{}, refused: map[int]bool{},
	}
	f.rack = racktest.Options{JoinToken: r.Join("a"), Fleet: fleet, Regions: []string{f.way.address()}, DataDir: t.TempDir()}
	f.startRack()
	racktest.Start(t, racktest.Options{JoinToken: r.Join("b"), Fleet: fleet})
	for rack, h := range map[string]*fake.Host{"a": f.flaps, "b": f.stays} {
		// Nobody takes over: it comes back by the rack that it went with, which must be
		// known before it is named.
		await(t, "rack "+rack+" to be known and "+h.Name()+" added", func(ctx context.Context) error {
			_, err := r.Admin.VmHosts.CreateVmHost(ctx, &vmhostv1.CreateVmHostRequest{
				VmHostId: h.Name(), VmHost: &vmhostv1.VmHost{Address: h.Address(), Rack: "racks/" + rack},
			})
			return err
		})
		ready(t, r.Admin, h, rack, nil)
	}
	var sending sync.WaitGroup
	for range senders {
		sending.Go(func() {
			for i := range f.todo {
				_ = f.send(t.Context(), i) // what is wrong with an answer it has said
			}
		})
	}
	f.stopSending = sync.OnceFunc(func() {
		close(f.todo)
		sending.Wait()
	})
	t.Cleanup(f.stopSending)
	return f
}

// startRack starts the rack of the host that flaps, also again.
func (f *flapping) startRack() { _, f.stopRack = racktest.Launch(f.t, f.rack) }

// endRack stops it.
func (f *flapping) endRack() {
	if err := f.stopRack(); err != nil {
		f.t.Errorf("the rack ended with: %v", err)
	}
}

// request is the compose of a number; an even one asks for the host that flaps.
func (f *flapping) request(i int) *vmhostv1.ComposeMachineRequest {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.requests[i] == nil {
		f.requests[i] = order(fmt.Sprintf("m-%d", i))
		if i%2 == 0 {
			f.requests[i].VmHost = "vmHosts/flaps"
		}
	}
	return f.requests[i]
}

// send sends a compose, and once more when it was accepted: it is one operation.
// Nothing is refused but what asks for the host that flaps, and for where that
// host stands only.
func (f *flapping) send(ctx context.Context, i int) error {
	req := f.request(i)
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	op, err := f.r.Admin.Machines.ComposeMachine(ctx, req)
	if err != nil {
		e := apierror.FromStatus(err)
		if e.Reason != vmhostv1.ErrorReason_NO_CAPACITY || e.Metadata["refused_state"] != "1" || req.GetVmHost() == "" {
			f.t.Errorf("%s for %q: %v, %v", req.GetHostname(), req.GetVmHost(), err, e.Metadata)
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		f.refused[i] = true
		return err
	}
	again, err := f.r.Admin.Machines.ComposeMachine(ctx, req)
	if err != nil || again.GetName() != op.GetName() {
		f.t.Errorf("%s is %s, and asked again %s, %v", req.GetHostname(), op.GetName(), again.GetName(), err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.accepted[i] = op
	return nil
}

// feed has some more composes sent, beside each other.
func (f *flapping) feed() {
	for range 3 {
		f.todo <- f.next
		f.next++
	}
}

// one is the number of a compose for the host that flaps, which is sent by itself.
func (f *flapping) one() int {
	i := f.next + f.next%2
	f.next = i + 1
	return i
}

// gone waits until nothing would be placed on the host.
func (f *flapping) gone(how string) {
	f.t.Helper()
	await(f.t, "the host to be known to be gone: "+how, func(ctx context.Context) error {
		plan, err := f.r.Admin.Machines.ComposeMachine(ctx, &vmhostv1.ComposeMachineRequest{VmHost: "vmHosts/flaps", ValidateOnly: true})
		if err == nil && plan.GetVmHost() != "" {
			err = errNotYet
		}
		return err
	})
}

// P1, P2, P3: a host comes and goes, by its rack's connection and by its own, while
// composes are sent for it and for the fleet, and some of its creates are under
// way, done without an answer or half done when it goes. Every compose is
// answered, every one that was accepted ends as one machine, what was refused is
// made when the host is back, and the ledgers are what the machines are.
func TestComposesWhileAHostFlapsAreAnsweredAndMadeOnce_P1_P2_P3(t *testing.T) {
	t.Parallel()
	f := newFlapping(t)
	type flap struct {
		how      string
		down, up func()
		known    bool // that it is gone is noticed before it is back
	}
	cut := flap{"its rack is cut off", func() { f.way.lead("") }, func() { f.way.lead(f.r.RackEndpoint) }, true}
	restart := flap{"its rack is stopped", f.endRack, f.startRack, true}
	crash := flap{"it crashes", f.flaps.Crash, f.flaps.Recover, true}
	lose := flap{"its connection is lost", f.flaps.Disconnect, func() {}, false}
	for _, flap := range []flap{crash, lose, cut, crash, restart, lose} {
		creates := f.flaps.Calls(fake.Create)
		f.flaps.Inject(fake.Create, fake.Fault{AfterEffect: true}, fake.Fault{HalfMade: true})
		release := f.flaps.Hang(fake.Create)
		defer release()
		first := f.one()
		await(t, "a compose on the host before "+flap.how, func(ctx context.Context) error { return f.send(ctx, first) })
		called(t, f.flaps, fake.Create, creates+1)
		f.feed()
		flap.down()
		f.feed()
		if flap.known {
			f.gone(flap.how)
			if err := f.send(t.Context(), f.one()); err == nil {
				t.Errorf("a host was chosen although %s", flap.how)
			}
		}
		f.feed()
		release()
		flap.up()
		f.feed()
		ready(t, f.r.Admin, f.flaps, "a", nil)
	}
	f.stopSending()

	for i := range f.next {
		if f.requests[i] != nil && f.accepted[i] == nil {
			await(t, f.requests[i].GetHostname()+" to be accepted by a host that is back", func(ctx context.Context) error { return f.send(ctx, i) })
		}
	}
	var machines []string
	for i, op := range f.accepted {
		oneEnd(t, f.r.Admin, succeed(t, f.r.Admin, op.GetName()))
		machines = append(machines, op.GetTarget())
		if again, err := f.r.Admin.Machines.ComposeMachine(t.Context(), f.requests[i]); err != nil || again.GetTarget() != op.GetTarget() {
			t.Errorf("m-%d was accepted as %s and is %s now, %v", i, op.GetTarget(), again.GetTarget(), err)
		}
	}
	if len(machines) != len(f.requests) {
		t.Errorf("of %d requests %d were accepted in the end", len(f.requests), len(machines))
	}
	ready(t, f.r.Admin, f.flaps, "a", nil)
	agreeOn(t, f.r.Admin, machines, f.flaps, f.stays)
	if n := f.flaps.Overlaps(); n != 0 {
		t.Errorf("%d times a machine was worked on twice at once", n)
	}
	t.Logf("%d composes, %d of them refused at first; create was called %d times", len(machines), len(f.refused), f.flaps.Calls(fake.Create)+f.stays.Calls(fake.Create))
}
