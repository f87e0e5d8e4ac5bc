package region

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/vmhost-project/vmhost/pkg/obs"
	"github.com/vmhost-project/vmhost/pkg/pki"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
	"github.com/vmhost-project/vmhost/services/region/internal/token"
)

// commandTimeout is how long a command waits for etcd.
const commandTimeout = 30 * time.Second

// gatewayTTL is how long a certificate that init writes is good: nothing
// replaces it by itself.
const gatewayTTL = 365 * 24 * time.Hour

// Init makes a deployment before its first region runs, and writes what other
// services need into a folder: `ca.pem`, `admin.token`, and, when names are
// given, `gateway.crt` and `gateway.key`. Done again it keeps the deployment and
// the token, and writes the certificates anew.
func Init(ctx context.Context, cfg Config, out string, gatewayNames []string, log *slog.Logger) error {
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	if err := os.MkdirAll(out, 0o750); err != nil {
		return fmt.Errorf("make the folder: %w", err)
	}
	cfg.GenerateSecretKey = true
	cfg.AdminTokenFile = filepath.Join(out, "admin.token")
	r := &Region{cfg: cfg, log: log}
	defer r.Close()
	if _, err := r.openState(ctx, nil); err != nil {
		return err
	}
	if _, err := os.Stat(cfg.AdminTokenFile); errors.Is(err, fs.ErrNotExist) {
		log.WarnContext(ctx, "the deployment was made before; its administrator's token is elsewhere", "hint", "vmhost-region token create --role admin --principal NAME")
	}
	if err := write(filepath.Join(out, "ca.pem"), r.CACertPEM(), 0o644); err != nil {
		return err
	}
	if len(gatewayNames) == 0 {
		return nil
	}
	cert, err := r.ServerCertificate(gatewayNames, gatewayTTL)
	if err != nil {
		return err
	}
	certPEM, keyPEM, err := pki.EncodeCertificate(cert)
	if err != nil {
		return err
	}
	return errors.Join(write(filepath.Join(out, "gateway.crt"), certPEM, 0o644), write(filepath.Join(out, "gateway.key"), keyPEM, 0o600))
}

// write replaces a file as a whole.
func write(path string, data []byte, mode fs.FileMode) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), ".init-*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer func() { _ = os.Remove(tmp.Name()) }() // gone already when all went well
	_, err = tmp.Write(data)
	if err = errors.Join(err, tmp.Chmod(mode), tmp.Close()); err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// CreateToken makes an API token for a principal, with a role of `viewer`,
// `composer`, `operator` and `admin`. Whoever can write to etcd may do that. A
// ttl of 0 makes a token without an end.
func CreateToken(ctx context.Context, cfg Config, principal, role string, ttl time.Duration) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	log, err := obs.NewLogger(os.Stderr, cfg.LogLevel, cfg.LogFormat)
	if err != nil {
		return "", err
	}
	r := &Region{cfg: cfg, log: log}
	defer r.Close()
	if err := r.openStore(ctx, nil); err != nil {
		return "", err
	}
	if _, ok := store.Deployment.Get(r.store.Cached()); !ok {
		return "", errors.New("there is no deployment in this etcd yet; run `vmhost-region init` or start a region first")
	}
	return r.CreateToken(ctx, principal, role, ttl)
}

// CreateToken makes an API token in a running region.
func (r *Region) CreateToken(ctx context.Context, principal, role string, ttl time.Duration) (string, error) {
	parsed, err := token.ParseRole(role)
	if err != nil {
		return "", err
	}
	text, id, record, err := token.New(principal, parsed, ttl)
	if err != nil {
		return "", err
	}
	tx := store.NewTxn()
	tx.IfAbsent(store.Tokens.Key(id))
	store.Put(tx, store.Tokens, record, id)
	if _, err := r.store.Commit(ctx, tx); err != nil {
		return "", fmt.Errorf("record the token: %w", err)
	}
	return text, nil
}
