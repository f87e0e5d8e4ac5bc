package listener_test

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"

	"github.com/vmhost-project/vmhost/services/rack/internal/driver/listener"
)

func TestASlowReaderIsToldOfEachMachineOnce(t *testing.T) {
	var s listener.Set
	l := s.Add()
	for range 1000 {
		s.Tell("a")
		s.Tell("b")
	}
	<-l.Wake()
	if got := l.Take(); !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("told of %v", got)
	}
	if got := l.Take(); len(got) != 0 {
		t.Errorf("told again of %v", got)
	}
	s.Tell("a")
	if got := l.Take(); !slices.Equal(got, []string{"a"}) {
		t.Errorf("a change after it was told: %v", got)
	}
	s.Remove(l)
	s.Tell("c")
	if got := l.Take(); s.Any() || len(got) != 0 {
		t.Errorf("removed, and told of %v", got)
	}
}

func TestADeliveryEndsWithItsContextAndItsConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, reads := range []bool{false, true} {
			var s listener.Set
			ctx, cancel := context.WithCancel(t.Context())
			dead := make(chan struct{})
			first, second := s.Deliver(ctx, dead), s.Deliver(t.Context(), dead)
			s.Tell("a")
			if e := <-first; e.UUID != "a" {
				t.Errorf("event %v", e)
			}
			if reads {
				<-second
			}
			s.Tell("b")
			cancel()
			close(dead)
			synctest.Wait() // whether somebody reads or not
			for range first {
				t.Error("an event after the end")
			}
			for range second {
				t.Error("an event after the end")
			}
			if s.Any() {
				t.Error("it is told still")
			}
		}
	})
}
