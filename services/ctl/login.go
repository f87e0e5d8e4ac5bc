package ctl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// loginFlags say what a rack logs in to a hypervisor with. Secrets come from
// files, from standard input or are typed; never from arguments.
type loginFlags struct {
	sshKey        string
	passwordStdin bool
	tls           struct{ cert, key, ca string }
}

// maxSecret is more than the API takes of any of them.
const maxSecret = 1 << 17

func (f *loginFlags) register(c *cobra.Command) {
	c.Flags().StringVar(&f.sshKey, "ssh-key", "", "`FILE` with the SSH private key to log in with; - is standard input")
	c.Flags().BoolVar(&f.passwordStdin, "password-stdin", false, "read the SSH password from standard input; asked for on a terminal")
	c.Flags().StringVar(&f.tls.cert, "tls-cert", "", "`FILE` with the client certificate, PEM")
	c.Flags().StringVar(&f.tls.key, "tls-key", "", "`FILE` with its private key, PEM")
	c.Flags().StringVar(&f.tls.ca, "tls-ca", "", "`FILE` with the CA of the host's certificate, PEM")
	c.MarkFlagsMutuallyExclusive("ssh-key", "password-stdin", "tls-cert")
	c.MarkFlagsMutuallyExclusive("ssh-key", "password-stdin", "tls-ca")
	c.MarkFlagsRequiredTogether("tls-cert", "tls-key")
	for _, name := range []string{"ssh-key", "tls-cert", "tls-key", "tls-ca"} {
		_ = c.MarkFlagFilename(name) // only fails for a flag that is not there
	}
}

// credential reads what the flags name; nil when they name nothing.
func (f *loginFlags) credential(ctx context.Context, a *app) (*vmhostv1.Credential, error) {
	switch {
	case f.sshKey != "":
		key, err := a.secretFile(f.sshKey)
		if err != nil {
			return nil, local(err, "name a private key that you can read with --ssh-key", "read the SSH key")
		}
		return &vmhostv1.Credential{Kind: &vmhostv1.Credential_SshPrivateKey{SshPrivateKey: key}}, nil
	case f.passwordStdin:
		password, err := a.password(ctx)
		if errors.Is(err, errInterrupted) {
			return nil, err
		}
		if err != nil {
			return nil, local(err, "pipe the password in: `… --password-stdin < FILE`", "read the password")
		}
		return &vmhostv1.Credential{Kind: &vmhostv1.Credential_Password{Password: password}}, nil
	case f.tls.cert != "" || f.tls.ca != "":
		t := &vmhostv1.TlsCredential{}
		for _, part := range []struct {
			path string
			into *string
		}{{f.tls.cert, &t.CertificatePem}, {f.tls.key, &t.PrivateKeyPem}, {f.tls.ca, &t.CaPem}} {
			if part.path == "" {
				continue
			}
			text, err := a.secretFile(part.path)
			if err != nil {
				return nil, local(err, "name a PEM file that you can read", "read the TLS credential")
			}
			*part.into = text
		}
		return &vmhostv1.Credential{Kind: &vmhostv1.Credential_Tls{Tls: t}}, nil
	default:
		return nil, nil //nolint:nilnil // a host can do without a credential, and the API's word for that is nil
	}
}

func (a *app) secretFile(path string) (string, error) {
	r := a.stdin
	if path != "-" {
		file, err := os.Open(path)
		if err != nil {
			return "", err
		}
		defer func() { _ = file.Close() }() // was only read
		r = file
	}
	data, err := io.ReadAll(io.LimitReader(r, maxSecret))
	if err != nil {
		return "", fmt.Errorf("read %s: %w", path, err)
	}
	if len(data) == 0 {
		return "", fmt.Errorf("%s is empty", path)
	}
	return string(data), nil
}

func (a *app) password(ctx context.Context) (string, error) {
	if a.interactive() {
		return a.askSecret(ctx, "Password: ")
	}
	data, err := io.ReadAll(io.LimitReader(a.stdin, maxSecret))
	if err != nil {
		return "", err
	}
	// The line break that echo and editors put at the end is no part of it.
	password := strings.TrimSuffix(strings.TrimSuffix(string(data), "\n"), "\r")
	if password == "" {
		return "", errors.New("standard input is empty")
	}
	return password, nil
}
