package encoded

import (
	"bytes"
	"testing"

	"google.golang.org/protobuf/proto"

	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

func TestAMessageThatIsEncodedIsReadLikeAnyOther(t *testing.T) {
	want := &vmhostv1.WatchEventsResponse{Event: &vmhostv1.Event{Id: "1", Attributes: map[string]string{"a": "b"}}, ResumeToken: "x"}
	m := New(want)
	c := Codec()
	first, err := c.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	sent := bytes.Clone(first.Materialize())
	first.Free() // as gRPC does when it was sent
	again, err := c.Marshal(m)
	if err != nil || !bytes.Equal(again.Materialize(), sent) {
		t.Errorf("the second stream is sent something else: %v", err)
	}
	got := &vmhostv1.WatchEventsResponse{}
	if err := c.Unmarshal(again, got); err != nil || !proto.Equal(got, want) {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
	if a, b := &again[0].ReadOnlyData()[0], &first[0].ReadOnlyData()[0]; a != b {
		t.Error("it was encoded twice")
	}
}

func TestOtherMessagesAreGRPCsOwn(t *testing.T) {
	c := Codec()
	want := &vmhostv1.Event{Id: "1"}
	data, err := c.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	got := &vmhostv1.Event{}
	if err := c.Unmarshal(data, got); err != nil || !proto.Equal(got, want) {
		t.Errorf("got %v, %v", got, err)
	}
	if _, err := c.Marshal("no message"); err == nil {
		t.Error("text was encoded")
	}
	if c.Name() != "proto" {
		t.Errorf("its name is %q", c.Name())
	}
}
