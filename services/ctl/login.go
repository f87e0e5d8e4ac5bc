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
	trustToken    string
	trustPassword bool
}

// given says whether any of the flags is.
func (f *loginFlags) given() bool {
	return f.sshKey != "" || f.passwordStdin || f.tls.cert != "" || f.tls.ca != "" || f.trustToken != "" || f.trustPassword
}

// maxSecret is more than the API takes of any of them.
const maxSecret = 1 << 17

func (f *loginFlags) register(c *cobra.Command) {
	c.Flags().StringVar(&f.sshKey, "ssh-key", "", "`FILE` with the SSH private key to log in with; - is standard input")
	c.Flags().BoolVar(&f.passwordStdin, "password-stdin", false, "read the SSH password from standard input; asked for on a terminal")
	c.Flags().StringVar(&f.tls.cert, "tls-cert", "", "`FILE` with the client certificate, PEM")
	c.Flags().StringVar(&f.tls.key, "tls-key", "", "`FILE` with its private key, PEM")
	c.Flags().StringVar(&f.tls.ca, "tls-ca", "", "`FILE` with the CA of the host's certificate, PEM")
	c.Flags().StringVar(&f.trustToken, "trust-token", "", "`FILE` with the trust token that `lxc config trust add` printed; - is standard input")
	c.Flags().BoolVar(&f.trustPassword, "trust-password-stdin", false, "read LXD's trust password from standard input; asked for on a terminal")
	c.MarkFlagsMutuallyExclusive("ssh-key", "password-stdin", "tls-cert")
	c.MarkFlagsMutuallyExclusive("ssh-key", "password-stdin", "trust-token", "trust-password-stdin")
	c.MarkFlagsMutuallyExclusive("ssh-key", "password-stdin", "tls-ca")
	c.MarkFlagsRequiredTogether("tls-cert", "tls-key")
	for _, name := range []string{"ssh-key", "tls-cert", "tls-key", "tls-ca", "trust-token"} {
		_ = c.MarkFlagFilename(name) // only fails for a flag that is not there
	}
}

// credential reads what the flags name, for a host of that type; nil when they
// name nothing.
func (f *loginFlags) credential(ctx context.Context, a *app, t vmhostv1.VmHostType) (*vmhostv1.Credential, error) {
	if t == vmhostv1.VmHostType_VM_HOST_TYPE_LXD || f.trustToken != "" || f.trustPassword {
		return f.lxd(ctx, a)
	}
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

// lxd is what makes an LXD server trust us: a certificate, or what has it accept
// the one that is made for the host.
func (f *loginFlags) lxd(ctx context.Context, a *app) (*vmhostv1.Credential, error) {
	l := &vmhostv1.LxdCredential{}
	switch {
	case f.sshKey != "" || f.passwordStdin || f.tls.ca != "":
		return nil, usage("use --trust-token, --trust-password-stdin, or --tls-cert with --tls-key", "an LXD server takes no SSH credential and no CA")
	case f.trustToken != "":
		token, err := a.secretFile(f.trustToken)
		if l.TrustToken = lastWord(token); err == nil && l.GetTrustToken() == "" {
			err = fmt.Errorf("%s holds nothing but white space", f.trustToken)
		}
		if err != nil {
			return nil, local(err, "name a file with what `lxc config trust add` printed", "read the trust token")
		}
	case f.trustPassword:
		password, err := a.password(ctx)
		if errors.Is(err, errInterrupted) {
			return nil, err
		}
		if err != nil {
			return nil, local(err, "pipe the password in: `… --trust-password-stdin < FILE`", "read the trust password")
		}
		l.TrustPassword = password
	}
	if f.tls.cert != "" {
		var err error
		if l.CertificatePem, err = a.secretFile(f.tls.cert); err == nil {
			l.PrivateKeyPem, err = a.secretFile(f.tls.key)
		}
		if err != nil {
			return nil, local(err, "name a PEM file that you can read", "read the client certificate")
		}
	}
	if l.GetTrustToken() == "" && l.GetTrustPassword() == "" && l.GetCertificatePem() == "" {
		return nil, nil //nolint:nilnil // a certificate is made for the host
	}
	return &vmhostv1.Credential{Kind: &vmhostv1.Credential_Lxd{Lxd: l}}, nil
}

// lastWord is the token, also when the whole output of lxc was saved.
func lastWord(s string) string {
	words := strings.Fields(s)
	if len(words) == 0 {
		return ""
	}
	return words[len(words)-1]
}
