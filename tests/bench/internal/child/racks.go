package child

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/vmhost-project/vmhost/pkg/backoff"
	"github.com/vmhost-project/vmhost/pkg/hypervisor/fake"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/rack"
)

// RoleRacks are racks as `vmhost-rack` runs them, many in one process.
const RoleRacks = "racks"

// RacksConfig says what racks there are. Those of fake hosts have their own each:
// rack r drives hosts r*Hosts to r*Hosts+Hosts-1.
type RacksConfig struct {
	// Dir has their identities and journals.
	Dir string
	// Region is where a region's child answers, for join tokens; Endpoint where
	// racks connect.
	Region, Endpoint string
	// Racks is how many, Hosts how many fake hosts each has, Machines how many
	// machines each of these, which nobody composed.
	Racks, Hosts, Machines int
	// Endless hosts never fill up.
	Endless bool
	// Sockets and LXDSockets are those of real hypervisors, by name.
	Sockets, LXDSockets map[string]string
	// Interval is how often hosts are read whole; 0: as always.
	Interval time.Duration
	// Verbose logs at debug level.
	Verbose bool
}

// RackName is the id of a rack.
func RackName(i int) string { return fmt.Sprintf("rack-%05d", i) }

// HostName is the id of a fake host, and its name in its address.
func HostName(i int) string { return fmt.Sprintf("host-%05d", i) }

// joinAtOnce is how many racks enrol at the same time.
const joinAtOnce = 8

type racks struct {
	cfg    RacksConfig
	log    *slog.Logger
	fleets []*fake.Fleet
	stop   context.CancelFunc
	group  sync.WaitGroup
}

func runRacks(ctx context.Context, config []byte, questions *http.ServeMux) (any, func(), error) {
	s := &racks{}
	if err := json.Unmarshal(config, &s.cfg); err != nil {
		return nil, nil, fmt.Errorf("read the configuration: %w", err)
	}
	level := slog.LevelWarn
	if s.cfg.Verbose {
		level = slog.LevelDebug
	}
	s.log = slog.New(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	ctx, s.stop = context.WithCancel(ctx)
	s.fleets = make([]*fake.Fleet, s.cfg.Racks)
	if err := inParallel(s.cfg.Racks, func(i int) error { return s.start(ctx, i) }); err != nil {
		s.end()
		return nil, nil, err
	}
	questions.HandleFunc("/flip", s.flip)
	return struct{}{}, s.end, nil
}

func (s *racks) end() {
	s.stop()
	s.group.Wait()
}

// start runs one rack and waits until it has a session.
func (s *racks) start(ctx context.Context, i int) error {
	cfg := rack.Default()
	cfg.DataDir = filepath.Join(s.cfg.Dir, RackName(i))
	cfg.Regions, cfg.OpsListen, cfg.DrainTimeout = []string{s.cfg.Endpoint}, "", time.Second
	cfg.LocalSockets, cfg.LXDSockets = s.cfg.Sockets, s.cfg.LXDSockets
	if s.cfg.Interval != 0 {
		cfg.InventoryInterval = s.cfg.Interval
	}
	deps := rack.Deps{Log: s.log, Registry: prometheus.NewRegistry(), JoinToken: func(ctx context.Context) (string, error) { return s.token(ctx, RackName(i)) }}
	if s.cfg.Hosts > 0 {
		cfg.Drivers = []string{rack.DriverFake}
		s.fleets[i] = s.fleet(i)
		deps.Fleet = s.fleets[i]
	}
	r, err := rack.NewWith(ctx, cfg, deps)
	if err != nil {
		return fmt.Errorf("open %s: %w", RackName(i), err)
	}
	s.group.Go(func() {
		if err := r.Run(ctx); err != nil {
			s.log.ErrorContext(ctx, "a rack ended", "rack", RackName(i), "error", err)
		}
	})
	for {
		if err = r.Ready(ctx); err == nil {
			return nil
		}
		if backoff.Wait(ctx, 10*time.Millisecond) != nil {
			return fmt.Errorf("wait for the session of %s: %w", RackName(i), err)
		}
	}
}

func (s *racks) token(ctx context.Context, name string) (token string, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.cfg.Region+"/join?rack="+url.QueryEscape(name), nil)
	if err != nil {
		return "", fmt.Errorf("ask for a join token: %w", err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", fmt.Errorf("ask for a join token: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", fmt.Errorf("ask for a join token: %w", err)
	}
	if err := json.Unmarshal(body, &token); err != nil {
		return "", fmt.Errorf("ask for a join token: %w: %s", err, body)
	}
	return token, nil
}

// fleet makes the hosts of a rack, never full, each with its machines.
func (s *racks) fleet(i int) *fake.Fleet {
	f := fake.NewFleet()
	for n := i * s.cfg.Hosts; n < (i+1)*s.cfg.Hosts; n++ {
		spec := fake.HostSpec{Name: HostName(n), Cores: 64, MemoryMiB: 256 << 10}
		if s.cfg.Endless {
			spec.Cores, spec.MemoryMiB = 8192, 1<<40
			spec.Pools = []fake.PoolSpec{{Name: "default", CapacityBytes: 1 << 60, Thin: true}}
		}
		h := f.AddHost(spec)
		for m := range s.cfg.Machines {
			h.Put(machineOf(n, m))
		}
	}
	return f
}

// MachineUUID is the uuid of a machine of a fake host, the same in every run.
func MachineUUID(host, machine int) string {
	return uuid.NewSHA1(uuid.NameSpaceOID, fmt.Appendf(nil, "%d/%d", host, machine)).String()
}

func machineOf(host, machine int) *rackv1.MachineObservation {
	return &rackv1.MachineObservation{
		Uuid: MachineUUID(host, machine), Name: fmt.Sprintf("m-%05d-%02d", host, machine), PowerState: vmhostv1.PowerState_POWER_STATE_ON,
		Cores: 2, MemoryMib: 4096, Architecture: "x86_64",
		Disks:      []*vmhostv1.MachineDisk{{StoragePool: "default", Volume: fmt.Sprintf("m-%05d-%02d.qcow2", host, machine), SizeBytes: 10 << 30}},
		Interfaces: []*vmhostv1.MachineInterface{{Mac: fmt.Sprintf("52:54:%02x:%02x:%02x:%02x", host>>16&0xff, host>>8&0xff, host&0xff, machine), Source: "default", Kind: vmhostv1.InterfaceKind_INTERFACE_KIND_NETWORK}},
	}
}

// flip changes the power of a host's first machine, and answers when.
func (s *racks) flip(w http.ResponseWriter, req *http.Request) {
	name := req.FormValue("host")
	for _, f := range s.fleets {
		h := f.Host(name)
		if h == nil {
			continue
		}
		all := h.All()
		state := vmhostv1.PowerState_POWER_STATE_ON
		if all[0].GetPowerState() == state {
			state = vmhostv1.PowerState_POWER_STATE_OFF
		}
		now := time.Now()
		answer(w, now, h.Power(all[0].GetUuid(), state))
		return
	}
	answer(w, nil, fmt.Errorf("no host %s", name))
}
