package component

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"

	"github.com/vmhost-project/vmhost/pkg/hypervisor/fake"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/rack/racktest"
	"github.com/vmhost-project/vmhost/services/region/regiontest"
)

// cluster is three etcd members.
type cluster struct {
	t       *testing.T
	members []*member
}

// member is one of them, with the way that clients take to it, which ends at
// once when it dies; etcd is nil while it is stopped.
type member struct {
	cfg  *embed.Config
	etcd *embed.Etcd
	way  *line
}

func (m *member) url() string { return "http://" + m.way.address() }

func startCluster(t *testing.T) *cluster {
	t.Helper()
	c := &cluster{t: t}
	var initial []string
	for i := range 3 {
		cfg := embed.NewConfig()
		cfg.Name, cfg.Dir = fmt.Sprintf("m%d", i), t.TempDir()
		cfg.UnsafeNoFsync = true
		cfg.TickMs, cfg.ElectionMs = 20, 200
		cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
		cfg.ListenClientUrls, cfg.ListenPeerUrls = []url.URL{freeURL(t)}, []url.URL{freeURL(t)}
		cfg.AdvertiseClientUrls, cfg.AdvertisePeerUrls = cfg.ListenClientUrls, cfg.ListenPeerUrls
		initial = append(initial, cfg.Name+"="+cfg.AdvertisePeerUrls[0].String())
		c.members = append(c.members, &member{cfg: cfg, way: newLine(t, cfg.ListenClientUrls[0].Host)})
	}
	t.Cleanup(func() {
		for _, m := range c.members {
			if m.etcd != nil {
				m.etcd.Close()
			}
		}
	})
	for _, m := range c.members {
		m.cfg.InitialCluster = strings.Join(initial, ",")
		c.start(m)
	}
	for _, m := range c.members {
		c.ready(m)
	}
	return c
}

// freeURL is an address that nothing uses, out of those that the system gives to
// nobody by itself: a member must get its own again after a restart.
func freeURL(t *testing.T) url.URL {
	t.Helper()
	for range 100 {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 20_000+rand.IntN(12_000)))
		if err != nil {
			continue
		}
		_ = l.Close()
		return url.URL{Scheme: "http", Host: l.Addr().String()}
	}
	t.Fatal("no port is free")
	return url.URL{}
}

func (c *cluster) start(m *member) {
	c.t.Helper()
	var err error
	if m.etcd, err = embed.StartEtcd(m.cfg); err != nil {
		c.t.Fatalf("start etcd: %v", err)
	}
}

func (c *cluster) ready(m *member) {
	c.t.Helper()
	select {
	case <-m.etcd.Server.ReadyNotify():
	case <-time.After(limit):
		c.t.Fatalf("etcd %s is not ready", m.cfg.Name)
	}
}

// leader is the member that leads now.
func (c *cluster) leader() (leader *member) {
	c.t.Helper()
	await(c.t, "a leader of etcd", func(context.Context) error {
		for _, m := range c.members {
			if m.etcd != nil && m.etcd.Server.Leader() == m.etcd.Server.MemberID() {
				leader = m
				return nil
			}
		}
		return errNotYet
	})
	return leader
}

// kill stops a member without a word to the others.
func (c *cluster) kill(m *member) {
	c.t.Helper()
	m.way.lead("")
	m.etcd.Server.HardStop()
	m.etcd.Close()
	m.etcd = nil
}

// back starts a member again and waits until it has all that the others have.
func (c *cluster) back(m *member) {
	c.t.Helper()
	c.start(m)
	c.ready(m)
	m.way.lead(m.cfg.ListenClientUrls[0].Host)
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{m.url()}, DialTimeout: 5 * time.Second, Logger: zap.NewNop()})
	if err != nil {
		c.t.Fatal(err)
	}
	defer client.Close()
	await(c.t, "the member to have caught up", func(ctx context.Context) error {
		resp, err := client.Get(ctx, "/vmhost/v1/deployment") // linearizable
		if err == nil && resp.Count == 0 {
			err = errors.New("it has no deployment")
		}
		return err
	})
}

// P6: the leader of three etcd members dies while machines are composed, and
// later comes back. Composing goes on with two; whatever was acknowledged, before
// and after, is there and was made once. At the end another member dies: now
// the one that came back is needed.
func TestWhatWasAcknowledgedSurvivesTheLossOfAnEtcdMember_P6(t *testing.T) {
	const machines, workers = 60, 4
	c := startCluster(t)
	r := regiontest.Start(t, regiontest.Options{Etcd: regiontest.EtcdAt(t, c.members[0].url(), c.members[1].url(), c.members[2].url())})
	fleet := fake.NewFleet(fake.HostSpec{Name: "h", Cores: machines + 1})
	h := fleet.Host("h")
	racktest.Start(t, racktest.Options{JoinToken: r.Join("a"), Fleet: fleet})
	addHost(t, r.Admin, h, "a")

	var mu sync.Mutex
	acknowledged := map[int]*vmhostv1.Operation{} // by request, the first answer
	requests := make([]*vmhostv1.ComposeMachineRequest, machines+1)
	todo := make(chan int)
	compose := func(i int) {
		await(t, requests[i].GetHostname()+" to be acknowledged", func(ctx context.Context) error {
			ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
			defer cancel()
			op, err := r.Admin.Machines.ComposeMachine(ctx, requests[i])
			if err != nil {
				return err // nothing was promised
			}
			mu.Lock()
			defer mu.Unlock()
			acknowledged[i] = op
			return nil
		})
	}
	var composing sync.WaitGroup
	for range workers {
		composing.Go(func() {
			for i := range todo {
				compose(i)
			}
		})
	}
	var dead *member
	for i := range machines {
		switch i {
		case machines / 3:
			dead = c.leader()
			c.kill(dead)
		case 2 * machines / 3:
			c.back(dead)
		}
		requests[i] = order(fmt.Sprintf("m-%d", i))
		todo <- i
	}
	close(todo)
	composing.Wait()
	if t.Failed() {
		return
	}

	for _, m := range c.members {
		if m != dead {
			c.kill(m)
			break
		}
	}
	requests[machines] = order("last")
	compose(machines)
	var targets []string
	for i, op := range acknowledged {
		targets = append(targets, op.GetTarget())
		succeed(t, r.Admin, op.GetName())
		again, err := r.Admin.Machines.ComposeMachine(t.Context(), requests[i])
		if err != nil || again.GetName() != op.GetName() {
			t.Errorf("request %d was acknowledged as %s and is %s now, %v", i, op.GetName(), again.GetName(), err)
		}
	}
	agree(t, r.Admin, h, targets)
}
