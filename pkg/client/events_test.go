package client_test

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/vmhost-project/vmhost/pkg/client"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

func TestEventsOfAnAnswerEachHaveTheirToken(t *testing.T) {
	one := func(id, token string) *vmhostv1.WatchedEvent {
		return &vmhostv1.WatchedEvent{Event: &vmhostv1.Event{Id: id}, ResumeToken: token}
	}
	for name, tc := range map[string]struct {
		in   *vmhostv1.WatchEventsResponse
		want []*vmhostv1.WatchedEvent
	}{
		"several": {
			&vmhostv1.WatchEventsResponse{ResumeToken: "2", Events: []*vmhostv1.WatchedEvent{one("a", "1"), one("b", "2")}},
			[]*vmhostv1.WatchedEvent{one("a", "1"), one("b", "2")},
		},
		"of a region that sends one": {
			&vmhostv1.WatchEventsResponse{Event: &vmhostv1.Event{Id: "a"}, ResumeToken: "1"}, []*vmhostv1.WatchedEvent{one("a", "1")},
		},
		"a sign of life, without one": {&vmhostv1.WatchEventsResponse{ResumeToken: "3"}, []*vmhostv1.WatchedEvent{{ResumeToken: "3"}}},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, slices.Collect(client.EventsOf(tc.in)), protocmp.Transform()); diff != "" {
				t.Error(diff)
			}
			for first := range client.EventsOf(tc.in) {
				if diff := cmp.Diff(tc.want[0], first, protocmp.Transform()); diff != "" {
					t.Error(diff)
				}
				break
			}
		})
	}
}
