package figure

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"github.com/vmhost-project/vmhost/pkg/client"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/tests/bench/internal/child"
)

// site is vmhost as it is on several machines: etcd, a region and racks, each a
// process.
type site struct {
	dir          string
	etcd, region *child.Handle
	racks        *child.Handle // nil until there are some
	etcdUp       child.EtcdUp
	up           child.RegionUp
	client       *client.Client
	patient      bool // racks that are not there are not given up
}

// newSite starts an etcd and a region. It ends with the Env, or with close.
func (e *Env) newSite(ctx context.Context, name string) (*site, error) {
	return e.openSite(ctx, &site{dir: filepath.Join(e.Dir, name)})
}

func (e *Env) openSite(ctx context.Context, s *site) (*site, error) {
	if err := e.begin(ctx); err != nil {
		return nil, err
	}
	e.untilNext(func(context.Context) error { return s.close() })
	var err error
	if s.etcd, err = child.Start(ctx, s.dir, child.RoleEtcd, child.EtcdConfig{Dir: filepath.Join(s.dir, "etcd")}, &s.etcdUp); err != nil {
		return nil, err
	}
	return s, s.startRegion(ctx)
}

func (s *site) startRegion(ctx context.Context) (err error) {
	if s.region, err = child.Start(ctx, s.dir, child.RoleRegion, child.RegionConfig{Etcd: s.etcdUp.Endpoint, Dir: s.dir, Patient: s.patient}, &s.up); err != nil {
		return err
	}
	s.client, err = client.Dial(client.Options{Endpoint: s.up.API, Token: s.up.Token, CAPEM: []byte(s.up.CA)})
	if err != nil {
		return fmt.Errorf("connect to the region: %w", err)
	}
	return nil
}

// stopRegion ends the region; the state stays in etcd.
func (s *site) stopRegion() (err error) {
	if s.client != nil {
		_ = s.client.Close() // nothing is on it any more
	}
	if s.region != nil {
		err = s.region.Close()
	}
	s.client, s.region = nil, nil
	return err
}

// startRacks starts racks with the region they belong to filled in, and waits
// until all have a session.
func (s *site) startRacks(ctx context.Context, cfg child.RacksConfig) (err error) {
	cfg.Dir, cfg.Region, cfg.Endpoint = filepath.Join(s.dir, "racks"), s.region.URL(), s.up.Racks
	s.racks, err = child.Start(ctx, s.dir, child.RoleRacks, cfg, &struct{}{})
	return err
}

// close ends all, racks first. It may be called again.
func (s *site) close() error {
	var err error
	if s.racks != nil {
		err = s.racks.Close()
	}
	if e := s.stopRegion(); err == nil {
		err = e
	}
	if s.etcd != nil {
		s.etcd.Kill() // its state is not needed any more
	}
	s.racks, s.etcd = nil, nil
	return err
}

// addHost adds a host and waits until it is ready.
func (s *site) addHost(ctx context.Context, id, address string) error {
	_, err := s.client.VmHosts.CreateVmHost(ctx, &vmhostv1.CreateVmHostRequest{VmHostId: id, VmHost: &vmhostv1.VmHost{Address: address}})
	if err != nil {
		return fmt.Errorf("add the host %s: %w", id, err)
	}
	return until(ctx, time.Minute, func() error {
		h, err := s.host(ctx, id)
		if err == nil && h.GetState() != vmhostv1.VmHostState_VM_HOST_STATE_READY {
			err = fmt.Errorf("the host %s is %v: %v", id, h.GetState(), h.GetConditions())
		}
		return err
	})
}

func (s *site) host(ctx context.Context, id string) (*vmhostv1.VmHost, error) {
	h, err := s.client.VmHosts.GetVmHost(ctx, &vmhostv1.GetVmHostRequest{Name: "vmHosts/" + id})
	if err != nil {
		return nil, fmt.Errorf("look at the host %s: %w", id, err)
	}
	return h, nil
}

// until tries until it works.
func until(ctx context.Context, limit time.Duration, try func() error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := try()
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return err
		}
	}
}
