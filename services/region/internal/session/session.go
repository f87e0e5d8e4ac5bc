// Package session is the region's half of rack sessions: it takes what racks
// report to the inventory and their results to the operations, and gives them
// their assignments and steps.
//
// Invariants:
//
//   - A rack has one session in the deployment, `sessions/<rack>` under the lease
//     of the region that holds it. A newer one ends an older one, wherever it is.
//   - Messages of a session are handled in the order in which they came: a
//     machine that a result tells of is recorded before the result is.
//   - A result is acknowledged only when it is recorded.
//   - What is queued for a rack is bounded: steps beyond it wait where they come
//     from. A rack that takes nothing is disconnected, and gets what is under way
//     again in its next session.
//   - A credential leaves the process only sealed to the rack that needs it (P8).
//
// Each session has two goroutines, the handler of the stream, which ends it, and
// one that receives. A third sends, for as long as there is something to send; what
// they do with the store they do in another for as long as it takes. Run owns one that follows
// the store and one that assigns hosts to racks, and waits for all of them.
package session

import (
	"context"
	"log/slog"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	"github.com/vmhost-project/vmhost/pkg/backoff"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/inventory"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

// Results records what steps came to.
type Results interface {
	// Result returns nil when the result is recorded or wanted by nobody.
	Result(ctx context.Context, rack string, res *rackv1.StepResult) error
}

// Secrets decrypts what is kept in the store under a key.
type Secrets interface {
	Decrypt(key string, ciphertext []byte) ([]byte, error)
}

// Identity says which rack a call comes from, by its certificate: its id, and
// the uid that tells it from a rack that had the id before.
type Identity func(ctx context.Context) (id, uid string, ok bool)

// Config is what a server is made of.
type Config struct {
	// Store is the state.
	Store *store.Store
	// Hub is where the operations find the sessions; from NewHub.
	Hub *Hub
	// Inventory records reports.
	Inventory *inventory.Inventory
	// Results records results.
	Results Results
	// Secrets decrypts credentials of hosts.
	Secrets Secrets
	// Identity says which rack calls.
	Identity Identity
	// RegionID names this process; Version is its software version.
	RegionID, Version string
	// Begun is told of every session that begins; nil tells nobody.
	Begun func()
	// Log gets what no rack is told.
	Log *slog.Logger
	// Heartbeat is how often racks send a sign of life; 0 means 5 s. A rack that
	// is silent for three times as long is disconnected.
	Heartbeat time.Duration
	// Grace is how long a rack may be without a session before its hosts go to
	// another; 0 means 30 s.
	Grace time.Duration
	// LeaseTTL is how long sessions of a region that died stay; 0 means 10 s.
	LeaseTTL time.Duration
	// AssignEvery is how often assignments are looked at; 0 means 1 s.
	AssignEvery time.Duration
}

// Server holds sessions.
type Server struct {
	cfg   Config
	store *store.Store
	hub   *Hub
	log   *slog.Logger
	// placed is kept by follow.
	placed placed

	mu       sync.Mutex
	lease    *store.Lease
	draining bool
	stopped  bool
	workers  sync.WaitGroup // of sessions; none is added once stopped
}

// New makes a server. Connect refuses racks until Run has a lease.
func New(cfg Config) *Server {
	setDefault(&cfg.Heartbeat, 5*time.Second)
	setDefault(&cfg.Grace, 30*time.Second)
	setDefault(&cfg.LeaseTTL, 10*time.Second)
	setDefault(&cfg.AssignEvery, time.Second)
	return &Server{cfg: cfg, store: cfg.Store, hub: cfg.Hub, log: cfg.Log.With("component", "session")}
}

func setDefault(d *time.Duration, value time.Duration) {
	if *d == 0 {
		*d = value
	}
}

// Run keeps the region's lease, follows the store and assigns hosts until ctx
// ends; then it ends all sessions with REGION_DRAINING.
func (s *Server) Run(ctx context.Context) error {
	var running sync.WaitGroup
	running.Go(func() { s.follow(ctx) })
	running.Go(func() { newAssigner(s).run(ctx) })
	s.keepLease(ctx)
	s.Drain()
	running.Wait()
	s.mu.Lock()
	s.stopped = true
	s.mu.Unlock()
	s.workers.Wait()
	return nil
}

// Drain refuses new sessions and tells the racks to go to another region.
func (s *Server) Drain() {
	s.mu.Lock()
	s.draining = true
	s.mu.Unlock()
	for _, ss := range s.hub.all() {
		ss.end(vmhostv1.ErrorReason_REGION_DRAINING, "this region is stopping")
	}
}

// keepLease has a lease until ctx ends. When one is lost, so are the sessions
// under it: their records are gone, and other regions may have taken over.
func (s *Server) keepLease(ctx context.Context) {
	retry := backoff.Backoff{Min: 100 * time.Millisecond, Max: 5 * time.Second}
	for ctx.Err() == nil {
		lease, err := s.store.Lease(ctx, s.cfg.LeaseTTL)
		if err != nil {
			if ctx.Err() == nil {
				s.log.WarnContext(ctx, "no lease for sessions, trying again", "error", err)
			}
			_ = backoff.Wait(ctx, retry.Next()) // its only failure is the end of ctx
			continue
		}
		retry.Reset()
		s.setLease(lease)
		select {
		case <-lease.Lost:
			s.setLease(nil)
			s.log.WarnContext(ctx, "lease of sessions lost, ending them")
			for _, ss := range s.hub.all() {
				ss.end(vmhostv1.ErrorReason_STORE_UNAVAILABLE, "the region lost its lease")
			}
		case <-ctx.Done():
			s.closeLease(context.WithoutCancel(ctx), lease)
		}
	}
}

// Lease is the region's lease, under which keys end with this process; false when
// there is none now.
func (s *Server) Lease() (clientv3.LeaseID, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lease == nil {
		return 0, false
	}
	return s.lease.ID, true
}

func (s *Server) setLease(l *store.Lease) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lease = l
}

// closeLease waits until the sessions have told their racks, which takes them a
// moment, and removes what is left of their records.
func (s *Server) closeLease(ctx context.Context, lease *store.Lease) {
	s.Drain()
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	s.setLease(nil)
	if err := lease.Close(ctx); err != nil {
		s.log.WarnContext(ctx, "lease of sessions not given back, it ends by itself", "error", err)
	}
}

// Connect is the session of one rack, from its Hello to its end.
func (s *Server) Connect(stream grpc.BidiStreamingServer[rackv1.ConnectRequest, rackv1.ConnectResponse]) error {
	ctx := stream.Context()
	id, uid, ok := s.cfg.Identity(ctx)
	if !ok {
		return apierror.New(codes.Unauthenticated, vmhostv1.ErrorReason_UNAUTHENTICATED, "the call comes from no enrolled rack")
	}
	s.mu.Lock()
	lease, draining, stopped := s.lease, s.draining, s.stopped
	if !stopped {
		s.workers.Add(1)
	}
	s.mu.Unlock()
	if stopped || draining {
		if !stopped {
			s.workers.Done()
		}
		return apierror.New(codes.Unavailable, vmhostv1.ErrorReason_REGION_DRAINING, "this region is stopping").WithHint("connect to another region")
	}
	defer s.workers.Done()
	if lease == nil {
		return apierror.New(codes.Unavailable, vmhostv1.ErrorReason_STORE_UNAVAILABLE, "the region has no lease for sessions yet").WithHint("connect again in a moment")
	}
	ss, err := newSession(s, stream, id, uid)
	if err != nil {
		return err
	}
	return ss.run(ctx, lease)
}

// follow hands what changes in the store to the sessions that it concerns.
func (s *Server) follow(ctx context.Context) {
	for ctx.Err() == nil {
		sub := s.store.Subscribe(ctx)
		s.placed.load(sub.View)
		for _, ss := range s.hub.all() {
			s.recheck(sub.View, ss)
			ss.syncAll()
			s.offerAll(sub.View, ss)
		}
		for batch := range sub.C {
			for _, c := range batch.Changes {
				s.note(c)
			}
		}
		if err := sub.Err(); err != nil && ctx.Err() == nil {
			s.log.WarnContext(ctx, "following the store anew", "error", err)
		}
	}
}
