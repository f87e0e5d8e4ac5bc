// Package trust forgets what made an LXD server trust us. A trust token or
// password is needed once; when the host was reached with the certificate that
// it was for, nothing should keep it (promise P8).
//
// Any region does it for any host: the records say whether it is still to be
// done, and the transaction compares them. The package owns one goroutine, Run,
// and keeps no state.
package trust

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"google.golang.org/protobuf/proto"

	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

// Secrets reads and writes what is kept in the store encrypted.
type Secrets interface {
	Encrypt(key string, plaintext []byte) ([]byte, error)
	Decrypt(key string, ciphertext []byte) ([]byte, error)
}

// Forgetter forgets trust secrets.
type Forgetter struct {
	store   *store.Store
	secrets Secrets
	log     *slog.Logger
}

// New makes a forgetter over the store.
func New(s *store.Store, secrets Secrets, log *slog.Logger) *Forgetter {
	return &Forgetter{store: s, secrets: secrets, log: log.With("component", "trust")}
}

// Run forgets until ctx ends.
func (f *Forgetter) Run(ctx context.Context) error {
	for {
		sub := f.store.Subscribe(ctx)
		for host := range store.VmHosts.All(f.store.Cached()) {
			f.look(ctx, host)
		}
		for batch := range sub.C {
			for _, c := range batch.Changes {
				switch c.Family {
				case store.Observed.Name():
					f.look(ctx, store.Observed.ID(c.Key))
				case store.VmHosts.Name():
					f.look(ctx, store.VmHosts.ID(c.Key))
				default:
				}
			}
		}
		if ctx.Err() != nil {
			return nil //nolint:nilerr // the end was asked for
		}
		f.log.WarnContext(ctx, "fell behind; all hosts are looked at again", "error", sub.Err())
	}
}

// look forgets the trust secret of a host that is reached. A failure is no
// reason to stop: the next change of the host has it tried again.
func (f *Forgetter) look(ctx context.Context, host string) {
	err := f.Look(ctx, host)
	if err != nil && !errors.Is(err, store.ErrConflict) && ctx.Err() == nil {
		f.log.WarnContext(ctx, "trust secret not forgotten yet", "vm_host", host, "error", err)
	}
}

// Look forgets the trust secret of a host if its time has come.
func (f *Forgetter) Look(ctx context.Context, host string) error {
	v := f.store.Cached()
	rec, ok := store.VmHosts.Get(v, host)
	if !ok || !rec.Value.GetForgetTrustSecret() {
		return nil
	}
	observed, _ := store.Observed.Get(v, host)
	// Reached with the present credential, and not with the one before.
	if observed.Value.GetVmHostUid() != rec.Value.GetResource().GetUid() || observed.Value.GetConnectionVersion() != rec.Value.GetConnectionVersion() {
		return nil
	}
	key := store.Secrets.Key("vmHosts", host)
	secret, ok := store.Secrets.Get(v, "vmHosts", host)
	next := proto.CloneOf(rec.Value)
	next.ForgetTrustSecret = false
	tx := store.NewTxn()
	tx.IfRevision(store.VmHosts.Key(host), rec.Revision)
	tx.IfRevision(key, secret.Revision)
	if ok {
		ciphertext, err := f.without(key, secret.Value)
		if err != nil {
			return err
		}
		store.Put(tx, store.Secrets, &storev1.StoredSecret{Ciphertext: ciphertext}, "vmHosts", host)
	}
	if info := next.GetResource().GetCredentialInfo(); info != nil {
		info.TrustSecretStored = false
	}
	store.Put(tx, store.VmHosts, next, host)
	if _, err := f.store.Commit(ctx, tx); err != nil {
		return fmt.Errorf("forget a trust secret: %w", err)
	}
	f.log.InfoContext(ctx, "the server trusts the certificate; the trust secret was forgotten", "vm_host", host)
	return nil
}

// without is a stored credential without its trust secret.
func (f *Forgetter) without(key string, secret *storev1.StoredSecret) ([]byte, error) {
	plain, err := f.secrets.Decrypt(key, secret.GetCiphertext())
	if err != nil {
		return nil, fmt.Errorf("read a credential: %w", err)
	}
	c := &vmhostv1.Credential{}
	if err := proto.Unmarshal(plain, c); err != nil {
		return nil, fmt.Errorf("decode a credential: %w", err)
	}
	if l := c.GetLxd(); l != nil {
		l.TrustToken, l.TrustPassword = "", ""
	}
	if plain, err = proto.Marshal(c); err != nil {
		return nil, fmt.Errorf("encode a credential: %w", err)
	}
	return f.secrets.Encrypt(key, plain)
}
