package main

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/vmhost-project/vmhost/pkg/pki"
)

// ttl is how long the certificates are good; every start of the composition
// issues new ones.
const ttl = 90 * 24 * time.Hour

// certificates writes ca.pem, tls.pem and tls.key into every DIR of the
// arguments DIR=NAME,NAME…; the authority itself stays in its own folder.
func certificates(args []string, out io.Writer) error {
	flags := flag.NewFlagSet("certificates", flag.ContinueOnError)
	dir := flags.String("authority", "", "folder that keeps the authority")
	if err := flags.Parse(args); err != nil {
		return err
	}
	authority, err := loadOrMake(*dir)
	if err != nil {
		return fmt.Errorf("certificates: %w", err)
	}
	for _, arg := range flags.Args() {
		dir, names, ok := strings.Cut(arg, "=")
		if !ok {
			return fmt.Errorf("certificates: %q is not DIR=NAME,NAME", arg)
		}
		if err := issue(authority, dir, strings.Split(names, ",")); err != nil {
			return fmt.Errorf("certificates for %s: %w", dir, err)
		}
		fmt.Fprintln(out, "issued", filepath.Join(dir, "tls.pem"), "for", names)
	}
	return nil
}

func loadOrMake(dir string) (*pki.Authority, error) {
	certFile, keyFile := filepath.Join(dir, "ca.pem"), filepath.Join(dir, "ca.key")
	certPEM, err := os.ReadFile(certFile)
	if errors.Is(err, fs.ErrNotExist) {
		return makeAuthority(certFile, keyFile)
	}
	if err != nil {
		return nil, err
	}
	keyPEM, err := os.ReadFile(keyFile)
	if err != nil {
		return nil, err
	}
	cert, _ := pem.Decode(certPEM)
	key, _ := pem.Decode(keyPEM)
	if cert == nil || key == nil {
		return nil, fmt.Errorf("%s or %s holds no PEM", certFile, keyFile)
	}
	return pki.LoadAuthority(cert.Bytes, key.Bytes)
}

func makeAuthority(certFile, keyFile string) (*pki.Authority, error) {
	authority, err := pki.NewAuthority("compose")
	if err != nil {
		return nil, err
	}
	key, err := authority.KeyDER()
	if err != nil {
		return nil, err
	}
	// The certificate last: it is what says that there is an authority.
	return authority, errors.Join(
		write(keyFile, 0o600, "EC PRIVATE KEY", key),
		write(certFile, 0o644, "CERTIFICATE", authority.CertDER()))
}

func issue(authority *pki.Authority, dir string, names []string) error {
	cert, err := authority.ServerCertificate(names, ttl)
	if err != nil {
		return err
	}
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		return err
	}
	return errors.Join(
		write(filepath.Join(dir, "ca.pem"), 0o644, "CERTIFICATE", authority.CertDER()),
		write(filepath.Join(dir, "tls.key"), 0o600, "PRIVATE KEY", key),
		write(filepath.Join(dir, "tls.pem"), 0o644, "CERTIFICATE", cert.Certificate...))
}

// write replaces a file at once, so that nobody reads half of it.
func write(path string, mode fs.FileMode, kind string, blocks ...[]byte) error {
	var text []byte
	for _, der := range blocks {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})...)
	}
	return replace(path, mode, text)
}

func replace(path string, mode fs.FileMode, text []byte) error {
	if err := os.WriteFile(path+".new", text, mode); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}
