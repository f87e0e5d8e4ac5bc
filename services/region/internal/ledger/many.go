package ledger

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	petname "github.com/dustinkirkland/golang-petname"
	"github.com/google/uuid"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	"github.com/vmhost-project/vmhost/pkg/backoff"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/placement"
	"github.com/vmhost-project/vmhost/services/region/internal/request"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

const (
	// maxMany is how many machines one call makes.
	maxMany = 1000
	// manyTries is how often all of them are decided on anew when others changed
	// what they were decided on.
	manyTries = 20
)

// ComposeMany places machines that are alike in one pass and commits all of them
// in one transaction, so that either all that were placed are there or none, and
// no rack hears of one before the others are recorded. Errors: those of Compose;
// unless as many as fit are wanted, NO_CAPACITY and QUOTA_EXCEEDED when not all do.
func (l *Ledger) ComposeMany(ctx context.Context, principal string, req *vmhostv1.ComposeMachinesRequest) (*vmhostv1.ComposeMachinesResponse, error) {
	if req.GetMachine().GetReservation() != "" {
		return l.composeManyReserved(ctx, principal, req)
	}
	m, err := newMany(principal, req)
	if err != nil {
		return nil, err
	}
	if req.GetValidateOnly() {
		v, err := l.store.View(ctx)
		if err != nil {
			return nil, unavailable(err)
		}
		d, err := l.decideMany(v, m)
		if err != nil {
			return nil, err
		}
		return d.response(m, true), nil
	}
	return l.together(ctx, m)
}

// composeAlone is Compose for a machine that depends on what is on hosts other
// than its own: it is decided on while nothing else is, on a linearizable view.
func (l *Ledger) composeAlone(ctx context.Context, w *want) (*vmhostv1.Operation, error) {
	out, err := l.together(ctx, &many{id: w.id, wants: []*want{w}, all: true, single: true})
	if err != nil {
		return nil, err
	}
	return out.GetOperations()[0], nil
}

// many is a request for machines that are alike.
type many struct {
	id     request.ID
	wants  []*want
	all    bool
	single bool   // by ComposeMachine, whose request_id stands for an operation
	prefix string // of hostnames; empty: made up
}

// number follows the beginning of a hostname.
func number(prefix string, n int) string { return prefix + "-" + strconv.Itoa(n) }

func newMany(principal string, in *vmhostv1.ComposeMachinesRequest) (*many, error) {
	id, err := request.New(principal, "ComposeMachines", in)
	if err != nil {
		return nil, err
	}
	if n := in.GetCount(); n < 1 || n > maxMany {
		return nil, apierror.InvalidField("count", "is %d, and must be 1 to %d", n, maxMany)
	}
	one := in.GetMachine()
	m := &many{id: id, prefix: one.GetHostname(), all: in.GetMode() != vmhostv1.ComposeManyMode_COMPOSE_MANY_MODE_AS_MANY_AS_FIT}
	if err := onlyOne(one); err != nil {
		return nil, err
	}
	for i := range in.GetCount() {
		each := proto.CloneOf(one)
		each.Hostname, each.RequestId, each.ValidateOnly = "", childRequestID(in.GetRequestId(), i), false
		w, err := newWant(principal, each)
		if err != nil {
			return nil, below("machine.", err)
		}
		m.wants = append(m.wants, w)
	}
	return m, nil
}

// hostnames are what the contract lets through, without the number.
var hostnames = regexp.MustCompile(`^([a-z0-9]([-a-z0-9]*[a-z0-9])?)?$`)

// onlyOne refuses what only one machine can have.
func onlyOne(r *vmhostv1.ComposeMachineRequest) error {
	const longest = 63
	if !hostnames.MatchString(r.GetHostname()) || len(number(r.GetHostname(), maxMany)) > longest {
		return apierror.InvalidField("machine.hostname", "must be a label that leaves room for a number: at most %d characters", longest-len(number("", maxMany)))
	}
	if len(r.GetPinnedCores()) > 0 {
		return apierror.InvalidField("machine.pinned_cores", "can be those of one machine only").WithHint("leave them out, or ask for one_numa_node")
	}
	for i, n := range r.GetInterfaces() {
		if n.GetMac() != "" {
			return apierror.InvalidField(fmt.Sprintf("machine.interfaces[%d].mac", i), "can be that of one machine only").WithHint("leave it out; MACs are chosen")
		}
		if n.GetIpAddress() != "" {
			return apierror.InvalidField(fmt.Sprintf("machine.interfaces[%d].ip_address", i), "can be that of one machine only").WithHint("name subnet_cidr instead")
		}
	}
	return nil
}

// below puts fields that an error names below another.
func below(prefix string, err error) error {
	e := &apierror.Error{}
	if !errors.As(err, &e) || len(e.Fields) == 0 {
		return err
	}
	for _, f := range e.Fields {
		if e.Reason == vmhostv1.ErrorReason_INVALID_FIELD && strings.HasPrefix(e.Message, f.GetField()+" ") {
			e.Message = prefix + e.Message
		}
		f.Field = prefix + f.GetField()
	}
	return e
}

// childRequestID is the request_id that the operation of one machine shows: the
// same whenever the whole is repeated.
func childRequestID(whole string, i int32) string {
	space, err := uuid.Parse(whole)
	if err != nil {
		return "" // none was sent; the contract lets only UUIDs through
	}
	return uuid.NewSHA1(space, []byte(strconv.Itoa(int(i)))).String()
}

// together decides and commits until nothing came in between.
func (l *Ledger) together(ctx context.Context, m *many) (*vmhostv1.ComposeMachinesResponse, error) {
	wait := backoff.Backoff{Min: 2 * time.Millisecond, Max: 100 * time.Millisecond}
	for range manyTries {
		var out *vmhostv1.ComposeMachinesResponse
		var revision int64
		err := l.WithTurn(ctx, func() (err error) {
			out, revision, err = l.once(ctx, m)
			return err
		})
		if err == nil {
			// The caller may look for what was made at once.
			if err := l.store.Wait(ctx, revision); err != nil {
				return nil, unavailable(err)
			}
			return out, nil
		}
		if !errors.Is(err, store.ErrConflict) {
			return nil, err
		}
		l.conflicts.Add(1)
		if err := backoff.Wait(ctx, wait.Next()); err != nil {
			return nil, err
		}
	}
	return nil, apierror.New(codes.Aborted, vmhostv1.ErrorReason_CONFLICT, "others changed hosts that %d machines were placed on %d times meanwhile", len(m.wants), manyTries).
		WithHint("try again")
}

// once decides on a linearizable view and commits. The caller has the turn, so
// that nothing else of this process is under way.
func (l *Ledger) once(ctx context.Context, m *many) (*vmhostv1.ComposeMachinesResponse, int64, error) {
	v, err := l.store.View(ctx)
	if err != nil {
		return nil, 0, unavailable(err)
	}
	if before, err := m.before(v); err != nil || before != nil {
		return before, 0, err
	}
	d, err := l.decideMany(v, m)
	if err != nil {
		return nil, 0, err
	}
	if d.stopped != nil && m.all {
		return nil, 0, d.stopped
	}
	out := d.response(m, false)
	if len(d.placed) == 0 {
		return out, 0, nil
	}
	if err := l.bindMany(d, m, out); err != nil {
		return nil, 0, err
	}
	if n := d.tx.Bytes(); n > store.MaxBytes {
		most := len(d.placed) * store.MaxBytes / n
		return nil, 0, apierror.InvalidField("count", "is too much at once: the records of %d machines like this are %d bytes, and one transaction takes %d", len(d.placed), n, store.MaxBytes).
			WithHint("ask for about %d at a time", most*9/10)
	}
	revision, err := l.store.Submit(ctx, d.tx)
	l.settle(d.decision, revision, err)
	if err != nil && !errors.Is(err, store.ErrConflict) {
		return nil, 0, unavailable(err)
	}
	return out, revision, err
}

// manyDecision is a decision on machines that are alike.
type manyDecision struct {
	*decision
	prefix  string
	plans   []placement.Plan
	refusal *vmhostv1.Placement // of the first that does not fit
	stopped error               // the same as an error; nil: all fit
}

// decideMany places one after the other, each on what those before it left, until
// one does not fit: the rest would not either.
func (l *Ledger) decideMany(v *store.View, m *many) (*manyDecision, error) {
	first := m.wants[0]
	field := "machine."
	if m.single {
		field = ""
	}
	if err := named(v, first); err != nil {
		return nil, below(field, err)
	}
	d := &manyDecision{decision: l.newDecision(v)}
	draft := d.fleet
	names := l.names(v, m, d)
	for i, w := range m.wants {
		if err := l.resolve(v, w); err != nil {
			return nil, below(field, err)
		}
		if err := w.chooseMACs(v, &l.index, d.taken.macs); err != nil {
			return nil, below(field, err)
		}
		if d.taken.hasMAC(w.macs) {
			return nil, store.ErrConflict // one that the request names; decided again
		}
		hostname, err := names(w)
		if err != nil {
			return nil, below(field, err)
		}
		err = l.within(v, d.decision, w)
		if err == nil && i == 0 && m.all {
			err = d.withinAll(m)
		}
		if err != nil {
			d.stopped, d.refusal = err, quotaRefusal(err)
			break
		}
		req := w.requestAs(hostname)
		req.NameTaken = func(host, name string) bool { return l.index.nameTaken(v, host, name) }
		plan := draft.Choose(&req)
		if err := addressTaken(&plan, &req); err != nil {
			return nil, below(field, err)
		}
		if plan.Host == nil {
			d.stopped, d.refusal = noCapacity(&plan), plan.Proto()
			if !m.single {
				d.stopped = noCapacityFor(&plan, i, len(m.wants))
			}
			break
		}
		l.add(d.decision, w, &plan, hostname)
		draft.Take(plan.Host.ID, d.placed[i].machine.GetCommitment(), "")
		d.plans = append(d.plans, plan)
	}
	return d, nil
}

// named refuses a request that names what does not exist.
func named(v *store.View, w *want) error {
	if !store.ResourcePools.Has(v, w.place.ResourcePool) {
		return apierror.NotFound("resourcePools/"+w.place.ResourcePool).WithField("resource_pool", "does not exist")
	}
	if w.place.Zone != "" && !store.Zones.Has(v, w.place.Zone) {
		return apierror.NotFound("zones/"+w.place.Zone).WithField("zone", "does not exist")
	}
	if w.place.VMHost != "" && !store.VmHosts.Has(v, w.place.VMHost) {
		return apierror.NotFound("vmHosts/"+w.place.VMHost).WithField("vm_host", "does not exist")
	}
	return nil
}

// requestAs is what is asked of placement once the hostname is known.
func (w *want) requestAs(hostname string) placement.Request {
	req := w.place
	pool := w.place.ResourcePool
	req.HypervisorName, req.InstanceName = hypervisorName(hostname, pool), instanceName(hostname, pool)
	return req
}

// names gives hostnames: that of a single machine, or the beginning with the
// lowest numbers that are free.
func (l *Ledger) names(v *store.View, m *many, d *manyDecision) func(w *want) (string, error) {
	pool := m.wants[0].place.ResourcePool
	taken := func(name string) bool {
		_, ok := store.Names.Get(v, pool, name)
		return ok
	}
	if m.single {
		return func(w *want) (string, error) {
			if w.hostname == "" {
				return madeUp(taken), nil
			}
			if taken(w.hostname) {
				return "", hostnameTaken(pool, w.hostname)
			}
			return w.hostname, nil
		}
	}
	d.prefix = m.prefix
	for d.prefix == "" || m.prefix == "" && taken(number(d.prefix, 1)) {
		d.prefix = petname.Generate(2, "-")
	}
	next := 0
	return func(*want) (string, error) {
		for next++; taken(number(d.prefix, next)); next++ {
		}
		name := number(d.prefix, next)
		if len(name) > maxInstanceName {
			return "", apierror.InvalidField("hostname", "has no number left that makes a name of at most %d characters", maxInstanceName)
		}
		return name, nil
	}
}

// add records a placed machine in the transaction, without what it compares.
func (l *Ledger) add(d *decision, w *want, plan *placement.Plan, hostname string) {
	pool, host := w.place.ResourcePool, plan.Host.ID
	machine := w.newMachine(plan, hostname)
	op := w.record(machine, plan.Host.UID)
	add(l.of(d, host), machine.GetCommitment())
	l.share(d, host, machine.GetCommitment())
	d.charge(pool, machine.GetCommitment())
	d.putMachine(w, machine, op, hostname)
	for _, mac := range w.macs {
		d.taken.macs[mac] = true
	}
	d.placed = append(d.placed, placed{pending: &pending{want: w}, machine: machine, operation: op.GetResource()})
}

// withinAll says whether the quota allows all of them, so that the numbers of a
// refusal are those of the request.
func (d *manyDecision) withinAll(m *many) error {
	w := m.wants[0]
	t := d.taking[w.place.ResourcePool]
	if t == nil {
		return nil
	}
	a, n := w.amount(), int64(len(m.wants))
	return checkQuota(w.place.ResourcePool, t.quota, t.next.GetAmount(), &vmhostv1.ResourceAmount{
		Machines: int32(n), Cores: a.GetCores() * n, MemoryMib: a.GetMemoryMib() * n, StorageBytes: a.GetStorageBytes() * n,
	})
}

// noCapacityFor says how many of many fit beside why the next does not.
func noCapacityFor(plan *placement.Plan, fit, of int) error {
	err := noCapacity(plan)
	e := &apierror.Error{}
	if errors.As(err, &e) {
		e.Message = fmt.Sprintf("%d of %d fit, and nothing was made: for the next, %s", fit, of, e.Message)
		return e.With("fit", strconv.Itoa(fit)).With("count", strconv.Itoa(of)).
			WithHint("ask for fewer, or for as many as fit; for more, %s", advice(plan, "a dry run"))
	}
	return err
}

// quotaRefusal is a refusal by the quota as a placement shows it.
func quotaRefusal(err error) *vmhostv1.Placement {
	return &vmhostv1.Placement{Refusals: []*vmhostv1.PlacementRefusal{{Filter: "quota", Message: err.Error(), Reason: vmhostv1.ErrorReason_QUOTA_EXCEEDED}}}
}

func (c *claims) hasMAC(macs []string) bool {
	seen := map[string]bool{}
	for _, mac := range macs {
		if c.macs[mac] || seen[mac] {
			return true
		}
		seen[mac] = true
	}
	return false
}
