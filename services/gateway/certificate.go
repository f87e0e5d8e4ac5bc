package gateway

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"
)

// statEvery is how often files are looked at for a change: soon enough for a
// renewal, seldom enough for many handshakes.
const statEvery = 10 * time.Second

// certificate serves a certificate out of files and reads them again when they
// change. Should the new ones be unreadable, the old certificate stays.
type certificate struct {
	cfg TLSConfig
	log *slog.Logger

	mu      sync.Mutex
	cert    *tls.Certificate
	looked  time.Time
	changed time.Time
}

func loadCertificate(cfg TLSConfig, log *slog.Logger) (*certificate, error) {
	c := &certificate{cfg: cfg, log: log}
	if err := c.read(c.modified()); err != nil {
		return nil, err
	}
	c.looked = time.Now()
	return c, nil
}

// get is a tls.Config's GetCertificate.
func (c *certificate) get(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := time.Now(); now.Sub(c.looked) >= statEvery {
		c.looked = now
		if changed := c.modified(); changed.After(c.changed) {
			if err := c.read(changed); err != nil {
				c.log.WarnContext(hello.Context(), "the changed certificate cannot be read; the old one is kept", "error", err)
			}
		}
	}
	return c.cert, nil
}

// modified is when the younger of the files changed.
func (c *certificate) modified() time.Time {
	var newest time.Time
	for _, name := range []string{c.cfg.CertFile, c.cfg.KeyFile} {
		if info, err := os.Stat(name); err == nil && info.ModTime().After(newest) {
			newest = info.ModTime()
		}
	}
	return newest
}

func (c *certificate) read(changed time.Time) error {
	cert, err := tls.LoadX509KeyPair(c.cfg.CertFile, c.cfg.KeyFile)
	if err != nil {
		return fmt.Errorf("read certificate: %w", err)
	}
	c.cert, c.changed = &cert, changed
	return nil
}
