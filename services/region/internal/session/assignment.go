package session

import (
	"context"
	"strconv"
	"strings"

	"github.com/vmhost-project/vmhost/pkg/pki"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

// assigned is what the rack was told last of a host.
type assigned struct {
	uid, connection string
	epoch           int64
}

// assign tells the rack what is new about some of its hosts, or about all: what it
// is to drive, with the credential sealed to it, and what no more.
func (ss *session) assign(ctx context.Context, dirty map[string]bool) error {
	v := ss.server.store.Cached()
	if dirty[""] {
		for _, host := range ss.server.placed.hosts(ss.rack) {
			dirty[host] = true
		}
		for host := range ss.given {
			dirty[host] = true
		}
		delete(dirty, "")
	}
	for host := range dirty {
		if err := ss.assignHost(ctx, v, host); err != nil {
			return err
		}
	}
	return nil
}

func (ss *session) assignHost(ctx context.Context, v *store.View, host string) error {
	spec, exists := store.VmHosts.Get(v, host)
	a, ok := store.Assignments.Get(v, host)
	uid := spec.Value.GetResource().GetUid()
	mine := exists && ok && a.Value.GetRack() == ss.rack && a.Value.GetVmHostUid() == uid
	before, had := ss.given[host]
	if had && (!mine || before.uid != uid) {
		delete(ss.given, host)
		had = false
		if err := ss.put(&rackv1.ConnectResponse{Message: &rackv1.ConnectResponse_Unassignment{
			Unassignment: &rackv1.Unassignment{Uid: before.uid},
		}}); err != nil {
			return err
		}
	}
	now := assigned{uid: uid, connection: spec.Value.GetConnectionVersion(), epoch: a.Revision}
	if !mine || (had && before == now) {
		return nil
	}
	m, err := ss.assignment(v, host, spec.Value, now)
	if err != nil {
		// One credential that cannot be read must not take the other hosts along.
		ss.log().ErrorContext(ctx, "host cannot be assigned", "vm_host", host, "error", err)
		return nil
	}
	if ss.given == nil {
		ss.given = map[string]assigned{}
	}
	ss.given[host] = now
	return ss.put(&rackv1.ConnectResponse{Message: &rackv1.ConnectResponse_Assignment{Assignment: m}})
}

func (ss *session) assignment(v *store.View, host string, spec *storev1.StoredVmHost, now assigned) (*rackv1.Assignment, error) {
	r := spec.GetResource()
	m := &rackv1.Assignment{
		VmHost: r.GetName(), Uid: now.uid, Epoch: now.epoch, Type: r.GetType(), Address: r.GetAddress(), HostKey: r.GetHostKey(),
		ConnectionVersion: now.connection, Project: r.GetProject(), ClusterMember: r.GetClusterMember(),
	}
	secret, ok := store.Secrets.Get(v, "vmHosts", host)
	if !ok {
		return m, nil
	}
	plain, err := ss.server.cfg.Secrets.Decrypt(store.Secrets.Key("vmHosts", host), secret.Value.GetCiphertext())
	if err != nil {
		return nil, err
	}
	rack, _ := store.Racks.Get(v, ss.rack)
	m.SealedCredential, err = pki.Seal(rack.Value.GetHpkePublicKey(), []byte(now.uid+"/"+strconv.FormatInt(now.epoch, 10)), plain)
	return m, err
}

// prepare tells the rack of the host that a step or console is for, if it was not
// told of it under that epoch: it would refuse.
func (ss *session) prepare(ctx context.Context, m *rackv1.ConnectResponse) error {
	name, epoch := m.GetStep().GetVmHost(), m.GetStep().GetEpoch()
	if open := m.GetOpenConsole(); open != nil {
		name, epoch = open.GetVmHost(), open.GetEpoch()
	}
	host := strings.TrimPrefix(name, "vmHosts/")
	if host == "" || ss.given[host].epoch >= epoch {
		return nil
	}
	return ss.assignHost(ctx, ss.server.store.Cached(), host)
}

// note hands one change to the sessions that it concerns.
func (s *Server) note(c store.Change) {
	switch c.Family {
	case store.Sessions.Name():
		if ss := s.hub.get(store.Sessions.ID(c.Key)); ss != nil {
			s.recheck(s.store.Cached(), ss)
		}
	case store.Racks.Name():
		if ss := s.hub.get(store.Racks.ID(c.Key)); ss != nil {
			s.recheck(s.store.Cached(), ss)
		}
	case store.Consoles.Name():
		if open, ok := c.New.(*storev1.StoredConsole); ok {
			s.offer(open)
		}
	case store.Assignments.Name():
		host := store.Assignments.ID(c.Key)
		was, _ := c.Old().(*storev1.StoredAssignment)
		is, _ := c.New.(*storev1.StoredAssignment)
		s.placed.note(host, was.GetRack(), is.GetRack())
		s.syncRack(was.GetRack(), host)
		s.syncRack(is.GetRack(), host)
	case store.VmHosts.Name():
		host := store.VmHosts.ID(c.Key)
		a, _ := store.Assignments.Get(s.store.Cached(), host)
		s.syncRack(a.Value.GetRack(), host)
	default:
	}
}

// offer sends a console that some region waits for to its rack, if its session is
// here.
func (s *Server) offer(c *storev1.StoredConsole) {
	if ss := s.hub.get(c.GetRack()); ss != nil {
		ss.queue(&rackv1.ConnectResponse{Message: &rackv1.ConnectResponse_OpenConsole{OpenConsole: c.GetOpen()}})
	}
}

// offerAll sends the consoles that are waited for; a rack does one that it has
// begun only once.
func (s *Server) offerAll(v *store.View, ss *session) {
	for _, c := range store.Consoles.All(v) {
		if c.Value.GetRack() == ss.rack {
			s.offer(c.Value)
		}
	}
}

func (s *Server) syncRack(rack, host string) {
	if ss := s.hub.get(rack); ss != nil {
		ss.syncHost(host)
	}
}

// recheck ends a session whose rack was removed, or that is not the rack's
// session any more.
func (s *Server) recheck(v *store.View, ss *session) {
	rack, ok := store.Racks.Get(v, ss.rack)
	if !ok || rack.Value.GetResource().GetUid() != ss.uid {
		ss.end(vmhostv1.ErrorReason_RACK_REVOKED, "the rack was removed")
		return
	}
	if !ss.recorded.Load() {
		return // what is in the store is still that of the session before
	}
	rec, ok := store.Sessions.Get(v, ss.rack)
	switch {
	case !ok:
		ss.end(vmhostv1.ErrorReason_STORE_UNAVAILABLE, "the session's record is gone")
	case rec.Value.GetSession() != ss.id:
		ss.end(vmhostv1.ErrorReason_CONFLICT, "a newer session of this rack has begun")
	}
}
