package session

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

const (
	protocol = 1
	// farewell is how long the last message may take.
	farewell = time.Second
	// maxHello bounds the lists of a Hello.
	maxHello = 64
)

type bidi = grpc.BidiStreamingServer[rackv1.ConnectRequest, rackv1.ConnectResponse]

// session is one stream of one rack. There may be a thousand, which wait nearly
// always: what is needed now and then is made then.
type session struct {
	server *Server
	stream bidi

	id, rack, uid string
	hello         chan *rackv1.RackHello // the first message
	silence       *time.Timer            // ends the session when the rack is silent

	mu      sync.Mutex
	begun   bool                      // the Hello is out, others may follow
	sending bool                      // a goroutine sends, or nothing is sent any more
	outbox  []*rackv1.ConnectResponse // what waits to be sent
	dirty   map[string]bool           // hosts to be looked at; the empty name means all

	turn  sync.Mutex          // of the one that sends
	given map[string]assigned // what the rack was told of its hosts; guarded by turn

	recorded atomic.Bool  // its key is in the store
	taken    atomic.Int64 // since when the rack has taken nothing of what waits, in nanoseconds since 1970

	once   sync.Once
	ended  chan struct{}
	reason *rackv1.Disconnect
}

func newSession(s *Server, stream bidi, rack, uid string) (*session, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return nil, err
	}
	return &session{
		server: s, stream: stream, id: id.String(), rack: rack, uid: uid,
		hello: make(chan *rackv1.RackHello, 1),
		ended: make(chan struct{}),
	}, nil
}

// log is made when something is logged, which is seldom.
func (ss *session) log() *slog.Logger {
	return ss.server.log.With("rack", ss.rack, "session", ss.id)
}

// end ends the session; the first reason counts.
func (ss *session) end(reason vmhostv1.ErrorReason, message string) {
	ss.once.Do(func() {
		ss.reason = &rackv1.Disconnect{Reason: reason, Message: message}
		close(ss.ended)
	})
}

// run is the handler: it ends the session when the rack is silent, when the
// stream breaks, or when somebody ended it, and then returns, which also ends the
// goroutines that send and receive.
func (ss *session) run(ctx context.Context, lease *store.Lease) error {
	if ss.server.cfg.Begun != nil {
		ss.server.cfg.Begun()
	}
	ss.silence = time.AfterFunc(3*ss.server.cfg.Heartbeat, ss.silent)
	defer ss.silence.Stop()
	ss.server.workers.Go(func() { ss.receive(ctx) }) // ends when the stream does
	select {
	case hello := <-ss.hello:
		ss.silence.Stop() // the rack waits for the answer
		if err := ss.apart(func() error { return ss.begin(ctx, lease, hello) }); err != nil {
			return err
		}
	case <-ss.ended:
		return ss.farewellError()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer ss.close(context.WithoutCancel(ctx))
	ss.heard()
	ss.beginSending()
	ss.syncAll()
	ss.server.offerAll(ss.server.store.Cached(), ss)
	select {
	case <-ss.ended:
		ss.server.hub.drop(ss) // no step goes to a session that has ended
		ss.log().InfoContext(ctx, "session ends", "reason", ss.reason.GetReason().String(), "cause", ss.reason.GetMessage())
		ss.sayFarewell(ctx)
	case <-ctx.Done():
	}
	return nil
}

// heard notes a sign of life.
func (ss *session) heard() { ss.silence.Reset(3 * ss.server.cfg.Heartbeat) }

// silent ends the session of a rack that gave no sign of life for too long.
func (ss *session) silent() {
	ss.end(vmhostv1.ErrorReason_DEADLINE, "the rack was silent for too long")
}

// farewellError is the end of a session that has not begun.
func (ss *session) farewellError() error {
	code := codes.Aborted
	if ss.reason.GetReason() == vmhostv1.ErrorReason_DEADLINE {
		code = codes.DeadlineExceeded
	}
	return apierror.New(code, ss.reason.GetReason(), "%s", ss.reason.GetMessage())
}

// begin records the session and answers the Hello.
func (ss *session) begin(ctx context.Context, lease *store.Lease, hello *rackv1.RackHello) error {
	if hello.GetProtocol() != protocol {
		return apierror.New(codes.FailedPrecondition, vmhostv1.ErrorReason_UNSUPPORTED, "the rack speaks protocol %d, this region %d", hello.GetProtocol(), protocol).
			WithHint("bring rack and region to versions that are next to each other")
	}
	record := &storev1.StoredSession{
		Region: ss.server.cfg.RegionID, Session: ss.id, ConnectTime: timestamppb.Now(), Version: clip(hello.GetVersion()),
		Drivers: clipAll(hello.GetDrivers()), LocalSockets: clipAll(hello.GetLocalSockets()),
		Movers: clipAll(hello.GetMovers()), SharedMovers: clipAll(hello.GetSharedMovers()),
	}
	// In the hub before it is recorded: the record is what wakes the operations,
	// and they must find the session then.
	if older := ss.server.hub.put(ss); older != nil {
		older.end(vmhostv1.ErrorReason_CONFLICT, "a newer session of this rack has begun")
	}
	if err := ss.record(ctx, lease, record); err != nil {
		ss.server.hub.drop(ss)
		return err
	}
	ss.recorded.Store(true)
	ss.server.recheck(ss.server.store.Cached(), ss)
	ss.log().InfoContext(ctx, "session begins", "version", record.GetVersion(), "drivers", record.GetDrivers(), "boot_id", clip(hello.GetBootId()))
	return ss.stream.Send(&rackv1.ConnectResponse{Message: &rackv1.ConnectResponse_Hello{Hello: &rackv1.RegionHello{
		Protocol: protocol, Version: ss.server.cfg.Version, Region: ss.server.cfg.RegionID, Session: ss.id,
		HeartbeatInterval: durationpb.New(ss.server.cfg.Heartbeat),
	}}})
}

// record puts the session's key, if the rack is still the one that called.
func (ss *session) record(ctx context.Context, lease *store.Lease, record *storev1.StoredSession) error {
	const tries = 10
	for range tries {
		v, err := ss.server.store.View(ctx)
		if err != nil {
			return err
		}
		rack, ok := store.Racks.Get(v, ss.rack)
		if !ok || rack.Value.GetResource().GetUid() != ss.uid {
			ss.end(vmhostv1.ErrorReason_RACK_REVOKED, "the rack was removed")
			return apierror.New(codes.PermissionDenied, vmhostv1.ErrorReason_RACK_REVOKED, "the rack %s was removed", ss.rack)
		}
		tx := store.NewTxn()
		tx.IfRevision(store.Racks.Key(ss.rack), rack.Revision)
		tx.WithLease(lease.ID)
		store.Put(tx, store.Sessions, record, ss.rack)
		store.AddEvent(tx, &vmhostv1.Event{
			Type: "rack.connected", Resource: "racks/" + ss.rack, Message: "racks/" + ss.rack + " connected to " + ss.server.cfg.RegionID,
			Attributes: map[string]string{"region": ss.server.cfg.RegionID, "version": record.GetVersion()},
		})
		if _, err = ss.server.store.Commit(ctx, tx); !errors.Is(err, store.ErrConflict) {
			return err
		}
	}
	return apierror.New(codes.Aborted, vmhostv1.ErrorReason_CONFLICT, "the rack's record changed %d times meanwhile", tries)
}

// close removes the session's key, unless a newer session has it, and says when
// the rack was last seen.
func (ss *session) close(ctx context.Context) {
	ss.end(vmhostv1.ErrorReason_ERROR_REASON_UNSPECIFIED, "the stream ended")
	ss.endSending()
	ss.server.hub.drop(ss)
	const patience = 5 * time.Second
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	v := ss.server.store.Cached()
	rec, ok := store.Sessions.Get(v, ss.rack)
	if !ok || rec.Value.GetSession() != ss.id {
		return
	}
	tx := store.NewTxn()
	tx.IfRevision(store.Sessions.Key(ss.rack), rec.Revision)
	tx.Delete(store.Sessions.Key(ss.rack))
	store.AddEvent(tx, &vmhostv1.Event{
		Type: "rack.disconnected", Resource: "racks/" + ss.rack,
		Message: strings.TrimSpace("racks/" + ss.rack + " disconnected: " + ss.reason.GetMessage()),
	})
	if _, err := ss.server.store.Commit(ctx, tx); err != nil && !errors.Is(err, store.ErrConflict) {
		ss.log().WarnContext(ctx, "session's key not removed, it ends with the lease", "error", err)
	}
}

func clip(s string) string { return s[:min(len(s), maxHello*2)] }

func clipAll(list []string) []string {
	var out []string
	for _, s := range list[:min(len(list), maxHello)] {
		out = append(out, clip(s))
	}
	return out
}
