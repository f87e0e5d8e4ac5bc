// Package console brings serial consoles of machines from racks to clients.
//
// Whoever wants a console writes `consoles/<id>` under the region's lease. The
// region that holds the session of the machine's rack, this one or another, sends
// it on as OpenConsole (package session), and the rack dials RackService.Console
// of the region that waits, with the id.
//
// Invariants:
//
//   - A console is taken only by the rack that it was asked from, by its
//     certificate, once, and with an id that nobody else knows.
//   - It ends with its client, with the epoch of the host (P7), with the machine's
//     record, with the rack's stream, and when the region drains; whichever it is,
//     the client is told.
//   - What one end does not take holds the other back; nothing is buffered here.
//   - That a console was opened and closed, and by whom, is recorded as events.
//
// That a machine has one console at a time is kept by its rack. Run owns one
// goroutine that follows the store; each console has two, which end with it.
package console

import (
	"context"
	"crypto/subtle"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	"github.com/vmhost-project/vmhost/pkg/obs"
	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

// Config is what a Server is made of.
type Config struct {
	// Store is the state.
	Store *store.Store
	// Lease is the region's lease; false when there is none now.
	Lease func() (store.LeaseID, bool)
	// Local says whether this process holds the session of a rack.
	Local func(rack string) bool
	// Identity says which rack calls: its id, and its uid.
	Identity func(ctx context.Context) (id, uid string, ok bool)
	// Endpoint is where racks reach this region when their session is with another,
	// host:port; empty: it is not known.
	Endpoint string
	// Patience is how long a rack may take to dial and to open a console; 0 means
	// 20 s.
	Patience time.Duration
	// Most is how many consoles are open at once; 0 means 256.
	Most int
	// Registry gets the number of open consoles.
	Registry prometheus.Registerer
	// Log gets what happens to consoles.
	Log *slog.Logger
}

// Server has the consoles of this process.
type Server struct {
	cfg   Config
	store *store.Store
	log   *slog.Logger
	gauge prometheus.Gauge

	mu       sync.Mutex
	consoles map[string]*Console // by id
	draining bool
	streams  sync.WaitGroup
}

// New makes a server.
func New(cfg Config) *Server {
	if cfg.Patience == 0 {
		cfg.Patience = 20 * time.Second
	}
	if cfg.Most == 0 {
		cfg.Most = 256
	}
	s := &Server{
		cfg: cfg, store: cfg.Store, log: cfg.Log.With("component", "console"), consoles: map[string]*Console{},
		gauge: prometheus.NewGauge(prometheus.GaugeOpts{Name: obs.MetricConsoles, Help: "Consoles of machines that are open at this region, logs that are read included."}),
	}
	if cfg.Registry != nil {
		cfg.Registry.MustRegister(s.gauge)
	}
	return s
}

// Run ends consoles whose ground was taken away, until ctx ends; then it ends all
// and waits for their streams.
func (s *Server) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		sub := s.store.Subscribe(ctx)
		s.recheckAll(sub.View)
		for batch := range sub.C {
			for _, c := range batch.Changes {
				s.note(c)
			}
		}
	}
	s.Drain()
	s.streams.Wait()
	return nil
}

// Drain opens no more consoles and ends those that are open.
func (s *Server) Drain() {
	s.mu.Lock()
	s.draining = true
	s.mu.Unlock()
	for _, c := range s.all() {
		c.end(draining())
	}
}

func draining() error {
	return apierror.New(codes.Unavailable, vmhostv1.ErrorReason_REGION_DRAINING, "this region is stopping, and the console ends").WithHint("open it again, at another region")
}

func (s *Server) all() []*Console {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]*Console, 0, len(s.consoles))
	for _, c := range s.consoles {
		out = append(out, c)
	}
	return out
}

// note ends the consoles that a change of the state takes the ground from.
func (s *Server) note(change store.Change) {
	switch change.Family {
	case store.Assignments.Name(), store.Machines.Name(), store.Sessions.Name():
	default:
		return
	}
	v := s.store.Cached()
	for _, c := range s.all() {
		switch change.Key {
		case store.Assignments.Key(c.host), store.Machines.Key(c.uid), store.Sessions.Key(c.rack):
			s.recheck(v, c)
		}
	}
}

func (s *Server) recheckAll(v *store.View) {
	for _, c := range s.all() {
		s.recheck(v, c)
	}
}

// recheck ends a console whose machine is gone, whose host has another epoch, or
// whose rack went before it came.
func (s *Server) recheck(v *store.View, c *Console) {
	if v.Revision < c.revision() {
		return // from before it was asked for
	}
	a, _ := store.Assignments.Get(v, c.host)
	_, machine := store.Machines.Get(v, c.uid)
	_, session := store.Sessions.Get(v, c.rack)
	switch {
	case !machine:
		c.end(apierror.New(codes.NotFound, vmhostv1.ErrorReason_NOT_FOUND, "machines/%s was removed", c.uid).With("resource", "machines/"+c.uid))
	case a.Revision != c.epoch:
		c.end(noRack(c.host, "vmHosts/%s went to another rack, and the console ends", c.host).WithHint("open it again"))
	case !session && !c.isOpen():
		c.end(noRack(c.host, "racks/%s, which drives vmHosts/%s, is not connected any more", c.rack, c.host))
	}
}

func noRack(host, format string, args ...any) *apierror.Error {
	return apierror.New(codes.Unavailable, vmhostv1.ErrorReason_NO_RACK, format, args...).
		With("vm_host", "vmHosts/"+host).WithHint("look at the racks with `vmhostctl rack list`, and try again")
}

// add takes a console in; an error when there is no room for it.
func (s *Server) add(c *Console) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.draining:
		return draining()
	case len(s.consoles) >= s.cfg.Most:
		return apierror.New(codes.ResourceExhausted, vmhostv1.ErrorReason_CONFLICT, "%d consoles are open at this region, which is as many as it takes", s.cfg.Most).
			WithHint("close some, or use another region")
	}
	s.consoles[c.id] = c
	s.gauge.Inc()
	return nil
}

func (s *Server) remove(c *Console) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.consoles[c.id] == c {
		delete(s.consoles, c.id)
		s.gauge.Dec()
	}
}

// claim finds the console of an id for the rack that it was asked from, once. How
// long it takes says nothing of the ids there are.
func (s *Server) claim(id, rack string) *Console {
	s.mu.Lock()
	defer s.mu.Unlock()
	var found *Console
	for have, c := range s.consoles {
		if subtle.ConstantTimeCompare([]byte(have), []byte(id)) == 1 {
			found = c
		}
	}
	if found == nil || found.rack != rack || found.claimed {
		return nil
	}
	found.claimed = true
	return found
}

// record is what a console is in the store.
func (c *Console) record() *storev1.StoredConsole {
	return &storev1.StoredConsole{Open: c.open, Rack: c.rack}
}
