package api

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	"github.com/vmhost-project/vmhost/pkg/pki"
	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/interceptor"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
	"github.com/vmhost-project/vmhost/services/region/internal/view"
)

const (
	// defaultJoinTTL is how long a join token is good when the request does not
	// say.
	defaultJoinTTL  = 10 * time.Minute
	joinIDBytes     = 8
	joinSecretBytes = 32
)

type racks struct {
	vmhostv1.UnimplementedRackServiceServer
	*base
	endpoints []string
	caSPKI    string
}

// showRack is a rack with its session and the hosts that it drives.
func showRack(v *store.View, r store.Record[*storev1.StoredRack]) *vmhostv1.Rack {
	rack := proto.CloneOf(r.Value.GetResource())
	rack.Etag = view.Etag(r.Revision)
	id := idOf(rack.GetName())
	rack.Connected = false
	if session, ok := store.Sessions.Get(v, id); ok {
		rack.Connected = true
		rack.LastSeenTime = proto.CloneOf(session.Value.GetConnectTime())
		rack.Version = session.Value.GetVersion()
		rack.Drivers = slices.Clone(session.Value.GetDrivers())
		rack.LocalSockets = slices.Clone(session.Value.GetLocalSockets())
	}
	rack.VmHosts = nil
	for host, a := range store.Assignments.All(v) {
		if a.Value.GetRack() == id {
			rack.VmHosts = append(rack.VmHosts, vmHostsCollection+host)
		}
	}
	return rack
}

// GetRack is one rack.
func (s *racks) GetRack(ctx context.Context, req *vmhostv1.GetRackRequest) (*vmhostv1.Rack, error) {
	v, err := s.store.View(ctx)
	if err != nil {
		return nil, err
	}
	r, ok := store.Racks.Get(v, idOf(req.GetName()))
	if !ok {
		return nil, apierror.NotFound(req.GetName())
	}
	return showRack(v, r), nil
}

// ListRacks are all racks.
func (s *racks) ListRacks(ctx context.Context, req *vmhostv1.ListRacksRequest) (*vmhostv1.ListRacksResponse, error) {
	page, next, err := answerList[*vmhostv1.Rack](ctx, s.base, vmhostv1.RackService_ListRacks_FullMethodName, req, "name",
		itemsOf(store.Racks, racksCollection, func(v *store.View, r store.Record[*storev1.StoredRack]) proto.Message { return showRack(v, r) }))
	if err != nil {
		return nil, err
	}
	return &vmhostv1.ListRacksResponse{Racks: page, NextPageToken: next}, nil
}

// CreateJoinToken makes a one-time token.
func (s *racks) CreateJoinToken(ctx context.Context, req *vmhostv1.CreateJoinTokenRequest) (*vmhostv1.JoinToken, error) {
	zone, err := reference("zone", req.GetZone(), zonesCollection, defaultID)
	if err != nil {
		return nil, err
	}
	ttl := defaultJoinTTL
	if req.GetTtl() != nil {
		ttl = req.GetTtl().AsDuration()
	}
	raw := make([]byte, joinIDBytes+joinSecretBytes)
	if _, err := rand.Read(raw); err != nil {
		return nil, fmt.Errorf("make a join token: %w", err)
	}
	id, secret := hex.EncodeToString(raw[:joinIDBytes]), raw[joinIDBytes:]
	answer := &vmhostv1.JoinToken{
		Id: id, Rack: racksCollection + req.GetRackId(), Zone: zonesCollection + zone, ExpireTime: timestamppb.New(time.Now().Add(ttl)),
	}
	v, err := s.store.View(ctx)
	if err != nil {
		return nil, err
	}
	tx := store.NewTxn()
	if err := mustExist(v, tx, store.Zones, "zone", answer.GetZone()); err != nil {
		return nil, err
	}
	lease, err := s.store.GrantOnce(ctx, ttl)
	if err != nil {
		return nil, err
	}
	hash := sha256.Sum256(secret)
	tx.WithLease(lease)
	store.Put(tx, store.JoinTokens, &storev1.StoredJoinToken{Resource: proto.CloneOf(answer), SecretSha256: hash[:]}, id)
	addEvent(ctx, tx, "rack.join_token_created", answer.GetRack(), "")
	if _, err := s.store.Commit(ctx, tx); err != nil {
		return nil, err
	}
	answer.Token = pki.JoinToken{Endpoints: s.endpoints, CASPKI: s.caSPKI, ID: id, Secret: secret}.String()
	return answer, nil
}

// JoinToken makes a join token for a rack in the region's own process.
func (s *Server) JoinToken(ctx context.Context, rack, zone string, ttl time.Duration) (string, error) {
	own := interceptor.WithPrincipal(ctx, interceptor.Principal{Name: "region", Role: storev1.Role_ROLE_ADMIN})
	service := &racks{base: s.base, endpoints: s.cfg.RackEndpoints, caSPKI: s.cfg.CASPKI}
	t, err := service.CreateJoinToken(own, &vmhostv1.CreateJoinTokenRequest{RackId: rack, Zone: zone, Ttl: durationpb.New(ttl)})
	return t.GetToken(), err
}

// ListJoinTokens are the tokens that can still be used.
func (s *racks) ListJoinTokens(ctx context.Context, _ *vmhostv1.ListJoinTokensRequest) (*vmhostv1.ListJoinTokensResponse, error) {
	v, err := s.store.View(ctx)
	if err != nil {
		return nil, err
	}
	answer := &vmhostv1.ListJoinTokensResponse{}
	now := time.Now()
	for _, t := range store.JoinTokens.All(v) {
		if t.Value.GetResource().GetExpireTime().AsTime().After(now) {
			answer.JoinTokens = append(answer.JoinTokens, proto.CloneOf(t.Value.GetResource()))
		}
	}
	return answer, nil
}

// DeleteJoinToken takes a token back.
func (s *racks) DeleteJoinToken(ctx context.Context, req *vmhostv1.DeleteJoinTokenRequest) (*vmhostv1.DeleteJoinTokenResponse, error) {
	v, err := s.store.View(ctx)
	if err != nil {
		return nil, err
	}
	id := store.EscapeID(req.GetId())
	r, ok := store.JoinTokens.Get(v, id)
	if !ok {
		return nil, apierror.NotFound("join token " + req.GetId())
	}
	tx := store.NewTxn()
	tx.IfRevision(store.JoinTokens.Key(id), r.Revision)
	tx.Delete(store.JoinTokens.Key(id))
	addEvent(ctx, tx, "rack.join_token_deleted", r.Value.GetResource().GetRack(), "")
	if _, err := s.store.Commit(ctx, tx); err != nil {
		return nil, err
	}
	return &vmhostv1.DeleteJoinTokenResponse{}, nil
}

// DeleteRack removes a rack: without its record no certificate of it is accepted.
// Its join tokens go with it.
func (s *racks) DeleteRack(ctx context.Context, req *vmhostv1.DeleteRackRequest) (*vmhostv1.DeleteRackResponse, error) {
	name, id := req.GetName(), idOf(req.GetName())
	return mutate(ctx, s.base, vmhostv1.RackService_DeleteRack_FullMethodName, once{req}, func(v *store.View, tx *store.Txn) (*vmhostv1.DeleteRackResponse, error) {
		r, ok := store.Racks.Get(v, id)
		if !ok {
			return nil, apierror.NotFound(name)
		}
		if err := checkEtag(name, req.GetEtag(), r.Revision); err != nil {
			return nil, err
		}
		if users := users(v, "racks", id); len(users) > 0 {
			return nil, inUse(name, users, "these hosts name the rack as the one that must drive them; clear or change their `rack` first")
		}
		tx.IfRevision(store.Racks.Key(id), r.Revision)
		tx.IfNone(store.References.Prefix("racks", id))
		tx.Delete(store.Racks.Key(id))
		tx.Delete(store.References.Key("zones", idOf(r.Value.GetResource().GetZone()), "racks", id))
		for token, t := range store.JoinTokens.All(v) {
			if t.Value.GetResource().GetRack() == name && tx.Writes() < store.MaxCompares/2 {
				tx.Delete(store.JoinTokens.Key(token))
			}
		}
		addEvent(ctx, tx, "rack.deleted", name, "")
		return &vmhostv1.DeleteRackResponse{}, nil
	})
}

// once is a mutation whose request has no request_id: repeating it does no harm.
type once struct{ proto.Message }

// GetRequestId is empty.
func (once) GetRequestId() string { return "" } //nolint:revive // named as the generated requests name it

// GetValidateOnly is false.
func (once) GetValidateOnly() bool { return false }
