package e2e

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// While nothing changes, hosts are read again and again and nothing is written:
// the store's revision and its log on disk stay what they are. A storage pool that is
// a folder is as full as its file system, where others write meanwhile, so that
// nothing is to be written where nothing else was seen.
func TestASteadyStateWritesNothing(t *testing.T) {
	h, k, l := host(t, "h2"), host(t, "h3"), lxdProject(t, "lxd3", "steady")
	h.clean(t, []string{"steady-domain"}, nil)
	s := newStandaloneWith(t, []string{"--inventory-interval", "1s"}, h, k)
	s.addHost(h)
	s.addHost(k)
	s.mustCtl("machine", "compose", "steady-domain", "--vm-host", h.name, "--memory", "64MiB", "--diskless", "--start")
	s.resync(2, h.name, k.name) // what was just made is seen
	if quiet := s.steady(6, h.name, k.name); quiet == 0 {
		t.Error("others wrote all the time, so that nothing was proven of libvirt")
	}
	revision, log := s.revision(), s.storeLog()
	s.mustCtl("machine", "delete", "steady-domain", "--yes")
	if s.revision() == revision || s.storeLog() == log {
		t.Error("a delete shows in neither, so that they prove nothing")
	}

	s.addLXD(l)
	l.init(t, "byhand")
	s.container(l, "steady-container")
	s.resync(2, l.name)
	t.Logf("nothing was used or freed by others in %d of 8 resyncs of LXD", s.steady(8, h.name, k.name, l.name))
	s.mustCtl("machine", "delete", "steady-container", "--yes")
}

// steady wants nothing written in resyncs of hosts in which nothing else is seen, and
// counts those.
func (s *standalone) steady(times int, hosts ...string) (quiet int) {
	s.t.Helper()
	seen := func() string {
		var all strings.Builder
		for _, name := range hosts {
			o := s.vmHost(name).GetObservation()
			o.ObserveTime = nil
			all.WriteString(o.String())
		}
		return all.String()
	}
	for range times {
		// Between two readings that are the same nothing can have come and gone.
		before, revision, log := seen(), s.revision(), s.storeLog()
		s.resync(1, hosts...)
		now, written, after := s.revision(), s.storeLog(), seen()
		if before != after {
			continue
		}
		quiet++
		if now != revision {
			s.t.Errorf("the revision went from %s to %s and nothing else was seen", revision, now)
		}
		if written != log {
			s.t.Error("something was written to the store's log and nothing else was seen")
		}
	}
	return quiet
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

// revision is that of the store: a watch that starts is told where it starts.
func (s *standalone) revision() string {
	s.t.Helper()
	ctx, cancel := context.WithCancel(s.t.Context())
	defer cancel()
	w, err := s.grpc().Events.WatchEvents(ctx, &vmhostv1.WatchEventsRequest{})
	if err != nil {
		s.t.Fatal(err)
	}
	first, err := w.Recv()
	if err != nil || first.GetResumeToken() == "" {
		s.t.Fatalf("%v, %v", first, err)
	}
	return first.GetResumeToken()
}

// storeLog is what etcd has written ahead, as a hash.
func (s *standalone) storeLog() string {
	s.t.Helper()
	files, err := filepath.Glob(filepath.Join(s.dir, "data", "etcd", "member", "wal", "*.wal"))
	if err != nil || len(files) == 0 {
		s.t.Fatalf("no log of etcd: %v", err)
	}
	sum := sha256.New()
	for _, path := range files {
		f, err := os.Open(path)
		if err != nil {
			s.t.Fatal(err)
		}
		_, err = io.Copy(sum, f)
		_ = f.Close()
		if err != nil {
			s.t.Fatal(err)
		}
	}
	return fmt.Sprintf("%x", sum.Sum(nil))
}
