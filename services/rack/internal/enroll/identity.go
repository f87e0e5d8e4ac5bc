// Package enroll gets a rack its identity, keeps it on disk and renews it.
//
// Invariants: an identity is one file of mode 0600 that is replaced atomically,
// so a kill leaves the old one or the new one; a certificate is kept only when
// it is for our key and was signed by a CA we trust; nothing secret is in an
// error or a log. Who the rack is, is for the region to say.
//
// The package starts no goroutine: Renew runs in its caller's.
package enroll

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/vmhost-project/vmhost/pkg/pki"
)

// ErrNotEnrolled says that there is no identity.
var ErrNotEnrolled = errors.New("this rack is not enrolled")

// file is the identity's name in the data folder.
const file = "identity.json"

// record is the identity as it is kept.
type record struct {
	Rack         string   `json:"rack"`
	Endpoints    []string `json:"endpoints"`
	Certificates [][]byte `json:"certificates"`
	CAs          [][]byte `json:"ca_certificates"`
	Key          []byte   `json:"key_pkcs8"`
	SealKey      []byte   `json:"seal_key"`
}

// identity is a record made ready for use.
type identity struct {
	record
	chain tls.Certificate
	roots *x509.CertPool
	seal  *pki.SealKey
}

// Store holds the identity of a rack. It is safe for concurrent use.
type Store struct {
	path string

	mu  sync.RWMutex
	cur *identity // nil when not enrolled
}

// Load reads the identity from a data folder; a folder without one is good.
func Load(dir string) (*Store, error) {
	s := &Store{path: filepath.Join(dir, file)}
	raw, err := os.ReadFile(s.path)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	} else if err != nil {
		return nil, fmt.Errorf("read identity: %w", err)
	}
	var r record
	if err := json.Unmarshal(raw, &r); err != nil {
		return nil, fmt.Errorf("read identity %s: %w", s.path, err)
	}
	if s.cur, err = r.open(); err != nil {
		return nil, fmt.Errorf("read identity %s: %w", s.path, err)
	}
	return s, nil
}

// open checks a record and makes it ready.
func (r record) open() (*identity, error) {
	key, err := x509.ParsePKCS8PrivateKey(r.Key)
	if err != nil {
		return nil, errors.New("parse key: not PKCS #8") // the cause could show the key
	}
	private, ok := key.(*ecdsa.PrivateKey)
	if !ok || len(r.Certificates) == 0 || r.Rack == "" {
		return nil, errors.New("identity is not whole")
	}
	roots := x509.NewCertPool()
	for _, der := range r.CAs {
		ca, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("parse CA certificate: %w", err)
		}
		roots.AddCert(ca)
	}
	leaf, err := x509.ParseCertificate(r.Certificates[0])
	if err != nil {
		return nil, fmt.Errorf("parse certificate: %w", err)
	}
	if public, ok := leaf.PublicKey.(*ecdsa.PublicKey); !ok || !private.PublicKey.Equal(public) {
		return nil, errors.New("certificate is for another key")
	}
	intermediates := x509.NewCertPool()
	for _, der := range r.Certificates[1:] {
		if c, err := x509.ParseCertificate(der); err == nil {
			intermediates.AddCert(c)
		}
	}
	if _, err := leaf.Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: intermediates, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		CurrentTime: leaf.NotBefore, // that it has ended is for its user to find
	}); err != nil {
		return nil, fmt.Errorf("verify certificate: %w", err)
	}
	seal, err := pki.LoadSealKey(r.SealKey)
	if err != nil {
		return nil, err
	}
	return &identity{
		record: r, roots: roots, seal: seal,
		chain: tls.Certificate{Certificate: presented(r.Certificates), PrivateKey: private, Leaf: leaf},
	}, nil
}

// presented is what of a chain is shown to a region: not the authority's own
// certificate at its end, which proves nothing, and which the region would keep in
// memory for as long as the rack is connected.
func presented(chain [][]byte) [][]byte {
	last := len(chain) - 1
	if c, err := x509.ParseCertificate(chain[last]); err == nil && last > 0 && bytes.Equal(c.RawSubject, c.RawIssuer) {
		return chain[:last]
	}
	return chain
}

// replace checks a record, puts it on disk and uses it from now on.
func (s *Store) replace(r record) error {
	id, err := r.open()
	if err != nil {
		return err
	}
	raw, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode identity: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := writeFile(s.path, raw); err != nil {
		return fmt.Errorf("keep identity: %w", err)
	}
	s.cur = id
	return nil
}

// Wipe forgets the identity, on disk as well.
func (s *Store) Wipe() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cur = nil
	if err := os.Remove(s.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("wipe identity: %w", err)
	}
	return syncDir(filepath.Dir(s.path))
}

func (s *Store) current() *identity {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.cur
}

// Enrolled says whether there is an identity.
func (s *Store) Enrolled() bool { return s.current() != nil }

// Rack is the rack's resource name, empty when not enrolled.
func (s *Store) Rack() string {
	if id := s.current(); id != nil {
		return id.Rack
	}
	return ""
}

// Endpoints are the region's addresses that the join token named.
func (s *Store) Endpoints() []string {
	if id := s.current(); id != nil {
		return id.Endpoints
	}
	return nil
}

// Expiry is when the certificate ends; zero when not enrolled.
func (s *Store) Expiry() time.Time {
	if id := s.current(); id != nil {
		return id.chain.Leaf.NotAfter
	}
	return time.Time{}
}

// Expired says that the certificate has ended.
func (s *Store) Expired() bool { return time.Now().After(s.Expiry()) }

// Trusts says whether a join token is of the deployment that the identity is of.
func (s *Store) Trusts(token pki.JoinToken) bool {
	id := s.current()
	if id == nil {
		return false
	}
	for _, der := range id.CAs {
		if ca, err := x509.ParseCertificate(der); err == nil && pki.SPKIHash(ca) == token.CASPKI {
			return true
		}
	}
	return false
}

// Unseal opens a credential that was sealed to this rack.
func (s *Store) Unseal(aad, sealed []byte) ([]byte, error) {
	id := s.current()
	if id == nil {
		return nil, ErrNotEnrolled
	}
	return id.seal.Open(aad, sealed)
}

// TLS is the client's side of a connection to a region at a host: the rack's
// certificate and the CAs of the moment of each handshake.
func (s *Store) TLS(host string) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		ServerName: host,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			id := s.current()
			if id == nil {
				return nil, ErrNotEnrolled
			}
			return &id.chain, nil
		},
		// The CAs can change between two handshakes, which RootCAs cannot follow.
		InsecureSkipVerify: true, //nolint:gosec // VerifyConnection verifies
		VerifyConnection: func(state tls.ConnectionState) error {
			id := s.current()
			if id == nil {
				return ErrNotEnrolled
			}
			intermediates := x509.NewCertPool()
			for _, c := range state.PeerCertificates[1:] {
				intermediates.AddCert(c)
			}
			_, err := state.PeerCertificates[0].Verify(x509.VerifyOptions{
				DNSName: host, Roots: id.roots, Intermediates: intermediates,
			})
			if err != nil {
				return fmt.Errorf("verify region: %w", err)
			}
			return nil
		},
	}
}

// writeFile replaces a private file; after a crash there is the old or the new.
func writeFile(path string, data []byte) (err error) {
	tmp, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*") // mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, tmp.Close(), os.Remove(tmp.Name()))
		}
	}()
	if _, err := tmp.Write(data); err != nil {
		return err
	}
	if err := tmp.Sync(); err != nil {
		return err
	}
	if err := os.Rename(tmp.Name(), path); err != nil {
		return err
	}
	return errors.Join(tmp.Close(), syncDir(filepath.Dir(path)))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
