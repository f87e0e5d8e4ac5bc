// Package api is the public API of a region: one file per service, one for how
// resources are shown, and one for what all mutations have in common.
//
// Reads answer from a linearizable snapshot of the store. A mutation of records
// is one transaction, which also records its request_id with the answer; what
// needs a hypervisor is handed to the ledger or to the operations engine, which
// answer with an operation. Credentials go into the store encrypted and come out
// of it to nobody here (promise P8).
//
// The package owns one goroutine, Run, which feeds WatchEvents. It holds no other
// state, decides no placement and talks to no rack.
package api

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"google.golang.org/grpc"

	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/api/query"
	"github.com/vmhost-project/vmhost/services/region/internal/console"
	"github.com/vmhost-project/vmhost/services/region/internal/policy"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
	"github.com/vmhost-project/vmhost/services/region/internal/view"
)

// Composer places machines and commits capacity to them.
type Composer interface {
	// Plan says where a machine would go, and why.
	Plan(ctx context.Context, req *vmhostv1.ComposeMachineRequest) (*vmhostv1.ComposePlan, error)
	// Compose takes the capacity and records machine and operation.
	Compose(ctx context.Context, principal string, req *vmhostv1.ComposeMachineRequest) (*vmhostv1.Operation, error)
	// ComposeMany is Compose for machines that are alike, in one transaction.
	ComposeMany(ctx context.Context, principal string, req *vmhostv1.ComposeMachinesRequest) (*vmhostv1.ComposeMachinesResponse, error)
	// Reserve takes capacity for machines that are composed later, DeleteReservation
	// gives it back.
	Reserve(ctx context.Context, principal string, req *vmhostv1.ReserveRequest) (*vmhostv1.Reservation, error)
	DeleteReservation(ctx context.Context, principal string, req *vmhostv1.DeleteReservationRequest) (*vmhostv1.DeleteReservationResponse, error)
	Turns
	Planner
	view.Fleets
}

// Operations begins, awaits and cancels work on hypervisors.
type Operations interface {
	Delete(ctx context.Context, principal string, req *vmhostv1.DeleteMachineRequest) (*vmhostv1.Operation, error)
	Power(ctx context.Context, principal, name string, want *vmhostv1.BatchChangePowerRequest) (*vmhostv1.Operation, error)
	BatchPower(ctx context.Context, principal string, req *vmhostv1.BatchChangePowerRequest, find func(v *store.View) ([]string, error)) (*vmhostv1.BatchChangePowerResponse, error)
	Adopt(ctx context.Context, principal string, req *vmhostv1.AdoptMachineRequest) (*vmhostv1.Operation, error)
	Release(ctx context.Context, principal string, req *vmhostv1.ReleaseMachineRequest) (*vmhostv1.Operation, error)
	Move(ctx context.Context, principal string, req *vmhostv1.MoveMachineRequest) (*vmhostv1.Operation, error)
	Remove(ctx context.Context, principal string, req *vmhostv1.RemoveVmHostRequest) (*vmhostv1.Operation, error)
	Drain(ctx context.Context, principal string, req *vmhostv1.DrainVmHostRequest) (*vmhostv1.Operation, error)
	Query(ctx context.Context, principal, name string) (*vmhostv1.Operation, error)
	Refresh(ctx context.Context, principal string, req *vmhostv1.RefreshVmHostRequest) (*vmhostv1.Operation, error)
	Check(ctx context.Context, principal string, req *vmhostv1.CheckVmHostRequest) (*vmhostv1.Operation, error)
	Cancel(ctx context.Context, name string) (*vmhostv1.Operation, error)
	Wait(ctx context.Context, name string, timeout time.Duration) (*vmhostv1.Operation, error)
}

// Consoles opens serial consoles of machines, and their logs.
type Consoles interface {
	Open(ctx context.Context, req console.Request) (*console.Console, error)
}

// Secrets encrypts what is kept in the store under a key.
type Secrets interface {
	Encrypt(key string, plaintext []byte) ([]byte, error)
	Decrypt(key string, ciphertext []byte) ([]byte, error)
}

// Config is what the API is made of.
type Config struct {
	// Store is the state.
	Store *store.Store
	// Seen knows when hosts were last reported here; nil: nobody does.
	Seen view.LastSeen
	// Secrets encrypts credentials.
	Secrets Secrets
	// Composer and Operations do what needs a hypervisor.
	Composer   Composer
	Operations Operations
	// Consoles opens consoles of machines.
	Consoles Consoles
	// Key authenticates page tokens and hides what request ids were used for; the
	// same in every region of a deployment.
	Key []byte
	// RackEndpoints and CASPKI are what a join token tells a rack.
	RackEndpoints []string
	CASPKI        string
	// Log gets faults of Run.
	Log *slog.Logger
}

// Server is the public API.
type Server struct {
	base       *base
	cfg        Config
	events     *eventHub
	discovered *discovered
}

// base is what every service has.
type base struct {
	store  *store.Store
	seen   view.LastSeen
	known  *view.Hosts
	fleets view.Fleets
	pager  *query.Pager
	key    []byte
}

// New makes the API. Run must be going for WatchEvents to tell anything.
func New(cfg Config) *Server {
	b := &base{store: cfg.Store, seen: cfg.Seen, known: &view.Hosts{}, fleets: cfg.Composer, pager: query.NewPager(cfg.Key), key: cfg.Key}
	return &Server{base: b, cfg: cfg, events: newEventHub(cfg.Store, cfg.Log), discovered: newDiscovered(cfg.Store)}
}

// Register registers every service.
func (s *Server) Register(r grpc.ServiceRegistrar) {
	vmhostv1.RegisterVmHostServiceServer(r, &vmHosts{base: s.base, turn: s.cfg.Composer, secrets: s.cfg.Secrets, operations: s.cfg.Operations})
	vmhostv1.RegisterMachineServiceServer(r, &machines{base: s.base, discovered: s.discovered, composer: s.cfg.Composer, operations: s.cfg.Operations, consoles: s.cfg.Consoles})
	vmhostv1.RegisterOperationServiceServer(r, &operations{base: s.base, engine: s.cfg.Operations})
	vmhostv1.RegisterZoneServiceServer(r, &zones{base: s.base})
	vmhostv1.RegisterResourcePoolServiceServer(r, &resourcePools{base: s.base})
	vmhostv1.RegisterPlacementServiceServer(r, &placements{planner: s.cfg.Composer})
	vmhostv1.RegisterPlacementPolicyServiceServer(r, &placementPolicies{base: s.base, policies: policy.NewSet()})
	vmhostv1.RegisterReservationServiceServer(r, &reservationService{base: s.base, composer: s.cfg.Composer})
	vmhostv1.RegisterRackServiceServer(r, &racks{base: s.base, endpoints: s.cfg.RackEndpoints, caSPKI: s.cfg.CASPKI})
	vmhostv1.RegisterEventServiceServer(r, &events{base: s.base, hub: s.events})
}

// Run feeds WatchEvents, and keeps an index for lists, until ctx ends.
func (s *Server) Run(ctx context.Context) error {
	var running sync.WaitGroup
	defer running.Wait()
	running.Go(func() { s.discovered.run(ctx) })
	return s.events.run(ctx)
}

// Drain ends all watches, so that the server can stop.
func (s *Server) Drain() { s.events.drain() }
