package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// watched is a `vmhostctl event watch` that runs.
type watched struct {
	t     *testing.T
	lines chan watchedLine
}

type watchedLine struct {
	at    time.Time
	event struct {
		Type, Resource string
		Attributes     map[string]string
	}
}

func (s *standalone) watch(filter string) *watched {
	s.t.Helper()
	cmd := s.command("event", "watch", "--filter", filter, "-o", "json")
	out, err := cmd.StdoutPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	w := &watched{t: s.t, lines: make(chan watchedLine, 1000)}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer close(w.lines)
		scan := bufio.NewScanner(out)
		for scan.Scan() {
			l := watchedLine{at: time.Now()}
			var got struct {
				Event *struct {
					Type, Resource string
					Attributes     map[string]string
				}
			}
			if json.Unmarshal(scan.Bytes(), &got) == nil && got.Event != nil {
				l.event.Type, l.event.Resource, l.event.Attributes = got.Event.Type, got.Event.Resource, got.Event.Attributes
				w.lines <- l
			}
		}
	}()
	s.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-ended
		_ = cmd.Wait()
	})
	return w
}

// power waits until the watch shows that a machine has a power state.
func (w *watched) power(resource, state string) time.Time {
	w.t.Helper()
	limit := time.After(90 * time.Second)
	for {
		select {
		case l, ok := <-w.lines:
			if !ok {
				w.t.Fatal("event watch has ended")
			}
			if l.event.Resource == resource && l.event.Type == "machine.power_changed" && l.event.Attributes["power_state"] == state {
				return l.at
			}
		case <-limit:
			w.t.Fatalf("event watch does not show that %s is %s", resource, state)
		}
	}
}

// What is done by hand on a host shows in `vmhostctl event watch` in less than a
// second: the median of twenty, from when lxc or virsh is back.
func TestWhatIsStoppedByHandShowsInEventWatchInUnderASecond(t *testing.T) {
	h, l := host(t, "h2"), lxdProject(t, "lxd3", "byhand")
	h.clean(t, []string{"domain"}, nil)
	s := newStandalone(t, h)
	s.addHost(h)
	s.addLXD(l)
	domain := strings.TrimSpace(s.mustCtl("machine", "compose", "domain", "--vm-host", h.name, "--memory", "64MiB", "--diskless", "--start", "-o", "name"))
	container := s.container(l, "container", "--start")
	t.Run("virsh destroy", func(t *testing.T) {
		t.Parallel()
		s.in(t).byHand("virsh destroy", domain, func() { h.virsh(t, "destroy", "domain") }, func() { h.virsh(t, "start", "domain") })
		s.in(t).mustCtl("machine", "delete", "domain", "--yes")
	})
	t.Run("lxc stop", func(t *testing.T) {
		t.Parallel()
		s.in(t).byHand("lxc stop", container, func() { l.lxc(t, "stop", "--force", "container") }, func() { l.lxc(t, "start", "container") })
		s.in(t).mustCtl("machine", "delete", "container", "--yes")
	})
}

// byHand stops a machine twenty times, and prints how long it took to show.
func (s *standalone) byHand(what, machine string, stop, start func()) {
	t := s.t
	t.Helper()
	w := s.watch(fmt.Sprintf("type = \"machine.power_changed\" AND resource = %q", machine))
	// Once unmeasured, again and again until the watch runs.
	for running := false; !running; {
		stop()
		start()
		select {
		case <-w.lines:
			running = true
		case <-time.After(3 * time.Second):
		}
	}
	w.power(machine, "POWER_STATE_ON")
	var after, whole []time.Duration
	for range 20 {
		began := time.Now()
		stop()
		stopped := time.Now()
		seen := w.power(machine, "POWER_STATE_OFF")
		after, whole = append(after, max(0, seen.Sub(stopped))), append(whole, seen.Sub(began))
		start()
		w.power(machine, "POWER_STATE_ON")
	}
	slices.Sort(after)
	slices.Sort(whole)
	t.Logf("%s by hand shows in event watch after %v, median of 20 (%v to %v); counted from before the command %v",
		what, after[10].Round(100*time.Microsecond), after[0].Round(100*time.Microsecond), after[19].Round(100*time.Microsecond), whole[10].Round(time.Millisecond))
	if after[10] >= time.Second {
		t.Errorf("%s by hand: the median of 20 is %v", what, after[10])
	}
}
