package executor_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	"github.com/vmhost-project/vmhost/pkg/hypervisor/fake"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// phone is the stream of one console, with a region at its other end.
type phone struct {
	grpc.ClientStream
	ctx      context.Context
	endpoint string
	in       chan *rackv1.ConsoleResponse
	stuck    bool // the region takes nothing
	once     sync.Once

	mu   sync.Mutex
	said []*rackv1.ConsoleRequest
	over bool // the rack's end is closed
}

func (p *phone) Send(m *rackv1.ConsoleRequest) error {
	p.mu.Lock()
	stuck := p.stuck
	if !stuck {
		p.said = append(p.said, m)
	}
	p.mu.Unlock()
	if stuck {
		<-p.ctx.Done()
	}
	return p.ctx.Err()
}

func (p *phone) Recv() (*rackv1.ConsoleResponse, error) {
	select {
	case m, ok := <-p.in:
		if !ok {
			return nil, io.EOF
		}
		return m, nil
	case <-p.ctx.Done():
		return nil, p.ctx.Err()
	}
}

func (p *phone) CloseSend() error {
	p.mu.Lock()
	p.over = true
	stuck := p.stuck
	p.mu.Unlock()
	if !stuck {
		p.hangUp()
	}
	return nil
}

func (p *phone) hangUp() { p.once.Do(func() { close(p.in) }) }

func (p *phone) stick() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stuck = true
}

// heard is what the region has: the id, whether it was opened, text and error.
func (p *phone) heard() (id string, opened bool, text string, failure *rackv1.StepError, over bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, m := range p.said {
		switch x := m.GetMessage().(type) {
		case *rackv1.ConsoleRequest_Id:
			id = x.Id
		case *rackv1.ConsoleRequest_Data:
			opened = opened || i == 1 && len(x.Data) == 0
			text += string(x.Data)
		case *rackv1.ConsoleRequest_Error:
			failure = x.Error
		}
	}
	return id, opened, text, failure, p.over
}

// exchange makes phones.
type exchange struct {
	mu     sync.Mutex
	phones []*phone
	fail   error
}

func (x *exchange) dial(ctx context.Context, endpoint string) (rackv1.RackService_ConsoleClient, func(), error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.fail != nil {
		return nil, nil, x.fail
	}
	p := &phone{ctx: ctx, endpoint: endpoint, in: make(chan *rackv1.ConsoleResponse, 100)}
	x.phones = append(x.phones, p)
	return p, func() {}, nil
}

func (x *exchange) all() []*phone {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.phones
}

// call asks for a console and answers its phone.
func (r *rig) call(open *rackv1.OpenConsole) *phone {
	r.t.Helper()
	n := len(r.phones.all())
	open.VmHost, open.VmHostUid = "vmHosts/h1", "uid-h1"
	if open.GetEpoch() == 0 {
		open.Epoch = 1
	}
	r.OpenConsole(r.t.Context(), open)
	wait(time.Millisecond)
	if all := r.phones.all(); len(all) == n+1 {
		return all[n]
	}
	r.t.Fatalf("%d consoles were dialled for one", len(r.phones.all())-n)
	return nil
}

func openConsole(id string) *rackv1.OpenConsole { return &rackv1.OpenConsole{Id: id, Uid: "m"} }

// runs makes a machine that runs.
func (r *rig) runs() *fake.Host {
	r.t.Helper()
	r.assign("h1", 1)
	r.Do(r.t.Context(), createStep("h1", "op/0/1", "m", 1))
	r.Do(r.t.Context(), powerStep("h1", "op/1/1", "m", 1, start1))
	wait(time.Second)
	return r.fleet.Host("h1")
}

// ended fails the test unless the console has ended so.
func (r *rig) ended(p *phone, class rackv1.ErrorClass) {
	r.t.Helper()
	_, _, _, failure, over := p.heard()
	if !over || failure.GetClass() != class || (failure == nil) != (class == 0) {
		r.t.Errorf("console over %v with %v, want %v", over, failure, class)
	}
}

const (
	busy        = rackv1.ErrorClass_ERROR_CLASS_BUSY
	unreachable = rackv1.ErrorClass_ERROR_CLASS_UNREACHABLE
)

func TestAConsoleGoesBothWaysUntilTheMachineStops(t *testing.T) {
	bubble(t, 1, func(r *rig) {
		host := r.runs()
		open := openConsole("c1")
		open.Endpoint = "region:1"
		p := r.call(open)
		p.in <- &rackv1.ConsoleResponse{Data: []byte("typed")}
		wait(time.Millisecond)
		host.Say("m", "said")
		wait(time.Millisecond)
		if id, opened, text, failure, over := p.heard(); id != "c1" || !opened || !strings.HasSuffix(text, "typedsaid") || failure != nil || over || p.endpoint != "region:1" {
			t.Errorf("id %q, opened %v, text %q, failure %v, over %v, at %q", id, opened, text, failure, over, p.endpoint)
		}
		if err := host.Power("m", off); err != nil {
			t.Fatal(err)
		}
		wait(time.Millisecond)
		r.ended(p, 0)
	})
}

func TestAConsoleIsHadByOneAndTakenByForce(t *testing.T) {
	bubble(t, 1, func(r *rig) {
		r.runs()
		first := r.call(openConsole("c1"))
		r.OpenConsole(t.Context(), openConsole("c1")) // asked for again after a reconnect
		wait(time.Millisecond)
		if n := len(r.phones.all()); n != 1 {
			t.Errorf("%d dials for one console", n)
		}
		r.ended(r.call(openConsole("c2")), busy)
		forced := openConsole("c3")
		forced.Force = true
		third := r.call(forced)
		r.ended(first, busy)
		if _, opened, _, failure, over := third.heard(); !opened || failure != nil || over {
			t.Errorf("by force: opened %v, failure %v, over %v", opened, failure, over)
		}
		third.hangUp() // the client goes
		wait(time.Millisecond)
		if fourth := r.call(openConsole("c4")); fourth != nil {
			if _, opened, _, _, _ := fourth.heard(); !opened {
				t.Error("a console that was left cannot be had again")
			}
		}
	})
}

func TestAConsoleEndsWithTheEpoch_P7(t *testing.T) {
	bubble(t, 1, func(r *rig) {
		r.runs()
		old := openConsole("c0")
		old.Epoch = 7
		r.ended(r.call(old), unreachable)
		p := r.call(openConsole("c1"))
		r.Assign(t.Context(), assignment("h1", 1)) // the same again changes nothing
		wait(time.Millisecond)
		if _, _, _, _, over := p.heard(); over {
			t.Error("it ended with an assignment that changes nothing")
		}
		r.Assign(t.Context(), assignment("h1", 2))
		wait(time.Millisecond)
		r.ended(p, unreachable)
		next := openConsole("c2")
		next.Epoch = 2
		p = r.call(next)
		p.stick() // even when the region takes nothing
		r.Unassign(t.Context(), "uid-h1")
		wait(10 * time.Second)
		if p.ctx.Err() == nil {
			t.Error("the stream of a console outlives its host")
		}
		r.ended(r.call(openConsole("c3")), unreachable)
	})
}

func TestTheLogIsReadAlsoOfAMachineThatIsOff(t *testing.T) {
	bubble(t, 1, func(r *rig) {
		host := r.runs()
		host.Say("m", strings.Repeat("x", 50000)+"END")
		if err := host.Power("m", off); err != nil {
			t.Fatal(err)
		}
		open := openConsole("c1")
		open.LogBytes = 40000
		p := r.call(open)
		_, opened, text, _, _ := p.heard()
		if len(text) != 40000 || !strings.HasSuffix(text, "xEND") || !opened {
			t.Errorf("%d bytes, opened %v", len(text), opened)
		}
		r.ended(p, 0)
		r.ended(r.call(openConsole("c2")), rackv1.ErrorClass_ERROR_CLASS_REFUSED)
	})
}

func TestConsolesAreBoundedAndEndWithTheRack(t *testing.T) {
	bubble(t, 1, func(r *rig) {
		host := r.runs()
		for i := range 64 {
			uuid := fmt.Sprint("m", i)
			host.Put(&rackv1.MachineObservation{Uuid: uuid, Uid: uuid, Name: uuid, PowerState: on})
			open := openConsole(fmt.Sprint("c", i))
			open.Uid = uuid
			if _, opened, _, failure, _ := r.call(open).heard(); !opened {
				t.Fatalf("console %d: %v", i, failure)
			}
		}
		r.ended(r.call(openConsole("one too many")), rackv1.ErrorClass_ERROR_CLASS_CAPACITY)
		p := r.phones.all()[0]
		r.disconnect() // they go on without a session
		wait(time.Minute)
		if _, _, _, _, over := p.heard(); over {
			t.Error("a console ended with the session")
		}
		r.stop()
		r.ended(p, unreachable)
	})
}

func TestADriverThatHasNoConsolesOrAdoptionSaysSo(t *testing.T) {
	bubble(t, 1, func(r *rig) {
		r.drivers[vmhostv1.VmHostType_VM_HOST_TYPE_FAKE] = plainOpener{r.fleet}
		r.runs()
		r.ended(r.call(openConsole("c")), rackv1.ErrorClass_ERROR_CLASS_UNSUPPORTED)
		for _, s := range []*rackv1.Step{adoptStep("a/0/1"), releaseStep("b/0/1")} {
			r.Do(t.Context(), s)
			wait(time.Second)
			if res := r.result(s.GetId()); res.GetError().GetClass() != rackv1.ErrorClass_ERROR_CLASS_UNSUPPORTED {
				t.Errorf("%s: %v", s.GetId(), res)
			}
		}
		r.phones.fail = errors.New("no region") // nobody can be told
		r.OpenConsole(t.Context(), openConsole("d"))
		synctest.Wait()
	})
}

// plainOpener opens drivers that can only what every driver must.
type plainOpener struct{ *fake.Fleet }

func (o plainOpener) Open(ctx context.Context, target hypervisor.Target) (hypervisor.Driver, error) {
	d, err := o.Fleet.Open(ctx, target)
	return struct{ hypervisor.Driver }{d}, err
}
