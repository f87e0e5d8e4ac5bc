// Package bootstrap makes a deployment at the first start of its first region:
// its id, its certificate authority, the default zone and pool, and a token for
// its administrator. All of it is one transaction, so that of several regions
// that start at once one makes it and the others find it.
//
// It owns no goroutine and keeps nothing but what it answers with.
package bootstrap

import (
	"context"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"

	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vmhost-project/vmhost/pkg/pki"
	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

// Secrets encrypts and decrypts what is kept in the store under a key.
type Secrets interface {
	Encrypt(key string, plaintext []byte) ([]byte, error)
	Decrypt(key string, ciphertext []byte) ([]byte, error)
}

// Config says what to make a deployment of.
type Config struct {
	// Store is the state.
	Store *store.Store
	// Secrets keeps the authority's key.
	Secrets Secrets
	// AdminTokenFile gets the first token, mode 0600; empty: none is made. A file
	// that is there is kept, and its token is the first one.
	AdminTokenFile string
	// Log says what was made.
	Log *slog.Logger
}

// caSecret is the name of the authority's key among the secrets.
const caSecret = "ca"

// Deployment is what all regions of a deployment share.
type Deployment struct {
	// UID is the deployment's id, the trust domain of its certificates.
	UID string
	// Authority issues its certificates.
	Authority *pki.Authority

	secret []byte
}

// CAPEM is the authority's certificate.
func (d *Deployment) CAPEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: d.Authority.CertDER()})
}

// Key derives a key that every region of the deployment has and nobody else.
func (d *Deployment) Key(purpose string) ([]byte, error) {
	key, err := hkdf.Key(sha256.New, d.secret, nil, "vmhost "+purpose, sha256.Size)
	if err != nil {
		return nil, fmt.Errorf("derive a key: %w", err)
	}
	return key, nil
}

// Ensure makes the deployment if there is none, and reads it.
func Ensure(ctx context.Context, cfg Config) (*Deployment, error) {
	for {
		view, err := cfg.Store.View(ctx)
		if err != nil {
			return nil, err
		}
		if record, ok := store.Deployment.Get(view); ok {
			return load(view, cfg, record.Value)
		}
		err = create(ctx, cfg)
		if err != nil && !errors.Is(err, store.ErrConflict) {
			return nil, fmt.Errorf("make the deployment: %w", err)
		}
	}
}

func load(view *store.View, cfg Config, record *storev1.StoredDeployment) (*Deployment, error) {
	stored, ok := store.Secrets.Get(view, caSecret)
	if !ok {
		return nil, fmt.Errorf("the store has the deployment %s but not its authority's key", record.GetUid())
	}
	key, err := cfg.Secrets.Decrypt(store.Secrets.Key(caSecret), stored.Value.GetCiphertext())
	if err != nil {
		return nil, fmt.Errorf("read the authority's key: %w", err)
	}
	authority, err := pki.LoadAuthority(record.GetCaCertificate(), key)
	if err != nil {
		return nil, fmt.Errorf("read the authority: %w", err)
	}
	return &Deployment{UID: record.GetUid(), Authority: authority, secret: key}, nil
}

func create(ctx context.Context, cfg Config) error {
	uid := uuid.NewString()
	authority, err := pki.NewAuthority(uid)
	if err != nil {
		return err
	}
	key, err := authority.KeyDER()
	if err != nil {
		return err
	}
	ciphertext, err := cfg.Secrets.Encrypt(store.Secrets.Key(caSecret), key)
	if err != nil {
		return err
	}
	tx := store.NewTxn()
	tx.IfAbsent(store.Deployment.Key())
	store.Put(tx, store.Deployment, &storev1.StoredDeployment{Uid: uid, CaCertificate: authority.CertDER(), CreateTime: timestamppb.Now()})
	store.Put(tx, store.Secrets, &storev1.StoredSecret{Ciphertext: ciphertext}, caSecret)
	if err := putDefaults(tx); err != nil {
		return err
	}
	undo, err := putAdminToken(tx, cfg.AdminTokenFile)
	if err != nil {
		return err
	}
	if _, err := cfg.Store.Commit(ctx, tx); err != nil {
		// Only when another region has made the deployment is it sure that the token
		// is worth nothing.
		if errors.Is(err, store.ErrConflict) {
			err = errors.Join(err, undo(cfg.Store.Cached()))
		}
		return err
	}
	cfg.Log.InfoContext(ctx, "deployment made", "deployment", uid, "admin_token_file", cfg.AdminTokenFile)
	return nil
}

// putDefaults makes the zone and the pool that are always there.
func putDefaults(tx *store.Txn) error {
	const id = "default"
	now := timestamppb.Now()
	zone, err := uuid.NewV7()
	if err != nil {
		return fmt.Errorf("make a uid: %w", err)
	}
	pool, err := uuid.NewV7()
	if err != nil {
		return fmt.Errorf("make a uid: %w", err)
	}
	store.Put(tx, store.Zones, &storev1.StoredZone{Resource: &vmhostv1.Zone{
		Name: "zones/" + id, Uid: zone.String(), CreateTime: now, UpdateTime: now, Description: "What is in no other zone.",
	}}, id)
	store.Put(tx, store.ResourcePools, &storev1.StoredResourcePool{Resource: &vmhostv1.ResourcePool{
		Name: "resourcePools/" + id, Uid: pool.String(), CreateTime: now, UpdateTime: now, Description: "What is in no other pool.",
	}}, id)
	return nil
}
