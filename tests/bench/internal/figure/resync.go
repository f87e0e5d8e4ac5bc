package figure

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	golibvirt "github.com/digitalocean/go-libvirt"

	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/tests/bench/internal/child"
	"github.com/vmhost-project/vmhost/tests/bench/internal/lab"
	"github.com/vmhost-project/vmhost/tests/bench/internal/measure"
)

const (
	// resyncs is how many resyncs one run is the median of.
	resyncs = 12
	// resyncEvery is how often the rack reads its hosts here. It is a minute
	// otherwise, which makes no difference to what a resync does.
	resyncEvery = time.Second

	resyncDomains, maasDomains, resyncInstances = 500, 50, 200
)

func resyncLibvirt() Figure {
	return Figure{
		Name: "resync_500_domains",
		About: "the resync that a rack makes every minute, of a host with 500 domains on which nothing changed, from its beginning until the region knows that the host was read, " +
			"against one ConnectGetAllDomainStats of all of them",
		Pair: func(ctx context.Context, e *Env) (measure.Pair, error) {
			r, err := e.resyncOf(ctx, resyncDomains)
			if err != nil {
				return measure.Pair{}, err
			}
			bulk, err := e.bulkOf(0, resyncDomains)
			return measure.Pair{Unit: "ms", A: r.side(hostID), Vs: "bulk-call", B: bulk, Target: measure.Target{AtMost: 1.5}}, err
		},
	}
}

func resyncNarrow() Figure {
	return Figure{
		Name:  "resync_500_vs_narrow",
		About: "the same against a bulk call for nothing but state and disks, which is what the driver asks for",
		Pair: func(ctx context.Context, e *Env) (measure.Pair, error) {
			r, err := e.resyncOf(ctx, resyncDomains)
			if err != nil {
				return measure.Pair{}, err
			}
			bulk, err := e.bulkOf(golibvirt.DomainStatsState|golibvirt.DomainStatsBlock, resyncDomains)
			return measure.Pair{Unit: "ms", A: r.side(hostID), Vs: "narrow-bulk-call", B: bulk}, err
		},
	}
}

func resyncMAAS() Figure {
	return Figure{
		Name: "resync_50_vs_maas",
		About: "the virsh commands of a MAAS refresh, typed into one virsh with the 50 ms pause before each that its pexpect makes, of a host with 50 domains, " +
			"against our resync of the same host",
		Pair: func(ctx context.Context, e *Env) (measure.Pair, error) {
			r, err := e.resyncOf(ctx, maasDomains)
			if err != nil {
				return measure.Pair{}, err
			}
			return measure.Pair{Unit: "ms", A: e.maas(50 * time.Millisecond), Vs: "vmhost-resync", B: r.side(hostID)}, nil
		},
	}
}

func resyncMAASUnpaused() Figure {
	return Figure{
		Name:  "resync_50_vs_maas_unpaused",
		About: "the same virsh commands without the pauses",
		Pair: func(ctx context.Context, e *Env) (measure.Pair, error) {
			r, err := e.resyncOf(ctx, maasDomains)
			if err != nil {
				return measure.Pair{}, err
			}
			return measure.Pair{Unit: "ms", A: e.maas(0), Vs: "vmhost-resync", B: r.side(hostID)}, nil
		},
	}
}

func resyncLXD() Figure {
	return Figure{
		Name: "resync_200_instances",
		About: "the same resync of an LXD server with 200 instances, until the region knows that it was read, " +
			"against the bare list of all instances with recursion=1",
		Pair: func(ctx context.Context, e *Env) (measure.Pair, error) {
			r, err := e.resyncer(ctx)
			if err != nil {
				return measure.Pair{}, err
			}
			x, err := r.lxd(ctx, e)
			if err != nil {
				return measure.Pair{}, err
			}
			list := func(ctx context.Context) (float64, error) {
				took, err := measure.Times(ctx, refreshes, func(ctx context.Context, _ int) error {
					n, err := x.List(ctx)
					if err == nil && n < resyncInstances {
						err = fmt.Errorf("the list has %d of %d instances", n, resyncInstances)
					}
					return err
				})
				return measure.Milliseconds(took), err
			}
			return measure.Pair{Unit: "ms", A: r.side(x.Name), Vs: "recursion-1-list", B: list, Target: measure.Target{AtMost: 1.5}}, nil
		},
	}
}

// resync is a site whose rack reads its hosts often, and tells when it began.
type resync struct {
	*site
	instances *lab.LXD
}

func (e *Env) resyncer(ctx context.Context) (*resync, error) {
	if e.resync != nil {
		return e.resync, nil
	}
	l, _, err := e.Lab(ctx)
	if err != nil {
		return nil, err
	}
	x, err := l.LXD(ctx)
	if err != nil {
		return nil, err
	}
	s, err := e.newSite(ctx, "resync")
	if err != nil {
		return nil, err
	}
	if err := s.startRacks(ctx, child.RacksConfig{
		Racks: 1, Sockets: map[string]string{hostID: l.Socket}, LXDSockets: map[string]string{x.Name: x.Socket}, Interval: resyncEvery, Verbose: true,
	}); err != nil {
		return nil, err
	}
	if err := s.addHost(ctx, hostID, "qemu+unix://"+hostID+"/system"); err != nil {
		return nil, err
	}
	e.resync = &resync{site: s, instances: x}
	return e.resync, nil
}

// resyncOf is the host with that many domains on it, all of them known.
func (e *Env) resyncOf(ctx context.Context, domains int) (*resync, error) {
	r, err := e.resyncer(ctx)
	if err != nil {
		return nil, err
	}
	if err := e.define(domains); err != nil {
		return nil, err
	}
	return r, r.listed(ctx, hostID, domains)
}

// lxd fills the LXD server and makes it a host.
func (r *resync) lxd(ctx context.Context, e *Env) (*lab.LXD, error) {
	x := r.instances
	remove, err := x.Fill(ctx, resyncInstances)
	if err != nil {
		return nil, err
	}
	e.onClose(remove)
	if err := r.addHost(ctx, x.Name, "lxd+unix://"+x.Name); err != nil {
		return nil, err
	}
	return x, r.listed(ctx, x.Name, resyncInstances)
}

// listed makes sure that what is measured does what it should.
func (r *resync) listed(ctx context.Context, host string, n int) error {
	return until(ctx, time.Minute, func() error {
		list, err := r.client.Machines.ListMachines(ctx, &vmhostv1.ListMachinesRequest{PageSize: 1000, Filter: `vm_host = "vmHosts/` + host + `"`})
		if err != nil {
			return fmt.Errorf("list the machines: %w", err)
		}
		if len(list.GetMachines()) < n {
			return fmt.Errorf("vmhost lists %d of %d machines of %s", len(list.GetMachines()), n, host)
		}
		return nil
	})
}

// side is the median time of the next resyncs of a host in which nothing changed.
func (r *resync) side(host string) measure.Side {
	return func(ctx context.Context) (float64, error) {
		log, err := os.Open(r.racks.Log())
		if err != nil {
			return 0, fmt.Errorf("read the rack's log: %w", err)
		}
		defer func() { _ = log.Close() }()
		if _, err := log.Seek(0, 2); err != nil {
			return 0, fmt.Errorf("read the rack's log: %w", err)
		}
		follow := &follower{log: log}
		var took []time.Duration
		for len(took) < resyncs {
			var began time.Time
			// Seldom, so that looking does not disturb what is looked at.
			err := until(ctx, 10*time.Second, func() error {
				var err error
				began, err = follow.next("vmHosts/" + host)
				return err
			})
			if err != nil {
				return 0, err
			}
			var known time.Time
			err = until(ctx, 10*time.Second, func() error {
				h, err := r.host(ctx, host)
				if known = h.GetObservation().GetObserveTime().AsTime(); err == nil && known.Before(began) {
					err = errors.New("the region does not know of a resync")
				}
				return err
			})
			if err != nil {
				return 0, err
			}
			took = append(took, known.Sub(began))
		}
		return measure.Milliseconds(measure.Median(took)), nil
	}
}

// follower reads the log of a rack as it grows.
type follower struct {
	log  *os.File
	rest []byte
}

// next is when the next resync began in which nothing changed.
func (f *follower) next(host string) (time.Time, error) {
	buf := make([]byte, 1<<16)
	for {
		line, rest, whole := bytes.Cut(f.rest, []byte("\n"))
		if !whole {
			n, err := f.log.Read(buf)
			if err != nil { // its end, for now
				return time.Time{}, fmt.Errorf("wait for a resync of %s: %w", host, err)
			}
			f.rest = append(f.rest, buf[:n]...)
			continue
		}
		f.rest = rest
		var said struct {
			Msg     string
			VMHost  string `json:"vm_host"`
			Began   time.Time
			Changed int
			Whole   bool
		}
		if json.Unmarshal(line, &said) != nil || said.Msg != "the host was read and reported" || said.VMHost != host || said.Whole || said.Changed > 0 {
			continue
		}
		return said.Began, nil
	}
}

// maas is the sequence of virsh commands that MAAS gives to refresh a host, one
// after another into one virsh.
func (e *Env) maas(pause time.Duration) measure.Side {
	return func(ctx context.Context) (float64, error) {
		shell, err := e.lab.Shell(ctx)
		if err != nil {
			return 0, err
		}
		began := time.Now()
		err = maasRefresh(ctx, func(command string) (string, error) { return shell.Run(ctx, pause, command) })
		took := time.Since(began)
		return measure.Milliseconds(took), errors.Join(err, shell.Close())
	}
}

func maasRefresh(ctx context.Context, run func(command string) (string, error)) error {
	give := func(commands ...string) (out string, err error) {
		for _, c := range commands {
			if out, err = run(c); err != nil {
				return "", err
			}
		}
		return out, nil
	}
	if _, err := give("pool-list --type dir,logical,zfs", "nodeinfo"); err != nil {
		return err
	}
	pools, err := give("pool-list")
	if err != nil {
		return err
	}
	// A table: two lines of head, then a name first in each line.
	for i, line := range strings.Split(pools, "\n") {
		if name := strings.Fields(line); i > 1 && len(name) > 0 {
			if _, err := give("pool-dumpxml " + name[0]); err != nil {
				return err
			}
		}
	}
	names, err := give("version --daemon", "nodeinfo", "list --all --name")
	if err != nil {
		return err
	}
	for _, name := range strings.Fields(names) {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if _, err := give("dumpxml "+name, "dominfo "+name, "dominfo "+name, "domstate "+name, "domblklist "+name+" --details", "domiflist "+name); err != nil {
			return err
		}
	}
	return nil
}
