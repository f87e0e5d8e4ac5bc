package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
)

// While nothing changes, hosts are read again and again and nothing is written. What
// changes by itself is: a guest gets its address when it likes, and a storage pool that
// is a folder is as full as its file system, where others write.
func TestASteadyStateWritesNothing(t *testing.T) {
	h, k, l := host(t, "h2"), host(t, "h3"), lxdProject(t, "lxd3", "steady")
	h.clean(t, []string{"steady-domain"}, nil)
	s := newStandaloneWith(t, []string{"--inventory-interval", "1s"}, h, k)
	s.addHost(h)
	s.addHost(k)
	s.mustCtl("machine", "compose", "steady-domain", "--vm-host", h.name, "--memory", "64MiB", "--diskless", "--start")
	s.steady(6, h.name, k.name)
	before := len(s.storeLog())
	s.mustCtl("machine", "delete", "steady-domain", "--yes")
	if len(s.storeLog()) == before {
		t.Error("a delete does not show in the log, which proves nothing then")
	}

	s.addLXD(l)
	l.init(t, "byhand")
	s.container(l, "steady-container")
	s.steady(8, h.name, k.name, l.name)
	s.mustCtl("machine", "delete", "steady-container", "--yes")
}

// steady wants nothing written that is no news while hosts are read so many times.
func (s *standalone) steady(times int, hosts ...string) {
	s.t.Helper()
	s.resync(2, hosts...) // what was just made is seen
	log := s.storeLog()
	last := map[string][]byte{}
	for _, r := range log {
		for _, p := range puts(r) {
			last[string(p.GetKey())] = p.GetValue()
		}
	}
	s.resync(times, hosts...)
	for _, r := range s.storeLog()[len(log):] {
		all := puts(r)
		if len(all) == 0 {
			s.t.Errorf("written while nothing happened: %v", r)
		}
		for _, p := range all {
			if key := string(p.GetKey()); !news(s.t, key, last[key], p.GetValue()) {
				s.t.Errorf("written while nothing happened: %s, which was\n%q, as\n%q", key, last[key], p.GetValue())
			}
			last[string(p.GetKey())] = p.GetValue()
		}
	}
}

// news says whether a record differs from the one before in how full storage pools are
// or in the addresses of a guest, and in nothing else but times.
func news(t *testing.T, key string, before, after []byte) bool {
	t.Helper()
	b, ignoreB := observed(t, key, before)
	a, ignoreA := observed(t, key, after)
	if proto.Equal(b, a) {
		return false
	}
	ignoreB()
	ignoreA()
	return proto.Equal(b, a)
}

// observed is a record of what was seen, without the times of it, and a function that
// takes from it what changes by itself.
func observed(t *testing.T, key string, value []byte) (proto.Message, func()) {
	t.Helper()
	into := func(m proto.Message) {
		if err := proto.Unmarshal(value, m); err != nil {
			t.Fatalf("%s: %v", key, err)
		}
	}
	switch family, _, _ := strings.Cut(strings.TrimPrefix(key, "/vmhost/v1/"), "/"); family {
	case "observed":
		r := &storev1.StoredVmHostObservation{}
		into(r)
		if o := r.GetObservation(); o != nil {
			o.ObserveTime = nil
		}
		return r, func() {
			for _, p := range r.GetObservation().GetStoragePools() {
				p.CapacityBytes, p.AllocationBytes, p.AvailableBytes = 0, 0, 0
			}
		}
	case "seen":
		r := &storev1.StoredSeenMachine{}
		into(r)
		r.ChangeTime = nil
		return r, func() {
			for _, n := range r.GetObservation().GetInterfaces() {
				n.Addresses = nil
			}
		}
	default:
		t.Fatalf("%s was written while nothing happened, as %q", key, value)
		return nil, nil
	}
}

// resync waits until all of these hosts were read so many times.
func (s *standalone) resync(times int, hosts ...string) {
	s.t.Helper()
	read := func() time.Time {
		first := time.Now().Add(time.Hour)
		for _, h := range hosts {
			if at := s.vmHost(h).GetObservation().GetObserveTime().AsTime(); at.Before(first) {
				first = at
			}
		}
		return first
	}
	for last := read(); times > 0; times-- {
		await(s.t, 60*time.Second, "a resync", func(context.Context) error {
			if now := read(); now.After(last) {
				last = now
				return nil
			}
			return fmt.Errorf("last at %v", last)
		})
	}
}
