package api

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"strings"

	"golang.org/x/crypto/ssh"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// The values of VmHost.credential_kind.
const (
	credentialNone     = "none"
	credentialSSHKey   = "ssh-key"
	credentialPassword = "password"
	credentialTLS      = "tls"
	credentialLXD      = "lxd"
)

func credentialKind(c *vmhostv1.Credential) string {
	switch c.GetKind().(type) {
	case *vmhostv1.Credential_SshPrivateKey:
		return credentialSSHKey
	case *vmhostv1.Credential_Password:
		return credentialPassword
	case *vmhostv1.Credential_Tls:
		return credentialTLS
	case *vmhostv1.Credential_Lxd:
		return credentialLXD
	}
	return credentialNone
}

func checkAddress(field string, t vmhostv1.VmHostType, text string) (hypervisor.Address, error) {
	if text == "" {
		return hypervisor.Address{}, apierror.InvalidField(field, "is empty; write for example qemu+ssh://root@h1.example/system")
	}
	address, err := hypervisor.ParseAddressAs(t, text)
	if err != nil {
		return hypervisor.Address{}, apierror.InvalidField(field, "%s", err)
	}
	return address, nil
}

// fingerprintBytes is the size of a SHA-256.
const fingerprintBytes = 32

// checkHostKey refuses a host key that could never be presented.
func checkHostKey(field string, address hypervisor.Address, key string) error {
	if key == "" {
		return nil
	}
	switch address.Transport {
	case hypervisor.TransportSSH, hypervisor.TransportTLS:
	case hypervisor.TransportHTTPS:
		if !lxdHostKey.MatchString(key) {
			return apierror.InvalidField(field, "must be SHA256: and the SHA-256 of the server's certificate in lower case hex, as `lxc info` shows it")
		}
		return nil
	case hypervisor.TransportFake:
		return nil // the fake driver takes any text for a key
	default:
		return apierror.InvalidField(field, "is set, but the address has no host key")
	}
	if hash, ok := strings.CutPrefix(key, "SHA256:"); ok {
		raw, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(hash, "="))
		if err != nil || len(raw) != fingerprintBytes {
			return apierror.InvalidField(field, "is no fingerprint: SHA256: and the base64 of 32 bytes")
		}
		return nil
	}
	if address.Transport == hypervisor.TransportTLS {
		return apierror.InvalidField(field, "must be SHA256: and the base64 of the certificate's SHA-256")
	}
	if strings.ContainsAny(key, "\r\n") {
		return apierror.InvalidField(field, "must be one line")
	}
	_, _, options, rest, err := ssh.ParseAuthorizedKey([]byte(key))
	if err != nil || len(options) > 0 || len(bytes.TrimSpace(rest)) > 0 {
		return apierror.InvalidField(field, "must be an SSH public key (`ssh-ed25519 AAAA…`) or a fingerprint (`SHA256:…`)")
	}
	return nil
}

// checkCredential refuses a credential that the address does not take, or that
// can never log in. Nothing of a credential is ever part of an answer, so the
// causes are not either.
func checkCredential(field string, address hypervisor.Address, c *vmhostv1.Credential, needed bool) error {
	kind := credentialKind(c)
	if address.Transport == hypervisor.TransportFake {
		return nil // the fake driver takes any credential
	}
	if c != nil && kind == credentialNone {
		return apierror.InvalidField(field, "has no kind; set ssh_private_key, password, tls or lxd")
	}
	switch address.Transport {
	case hypervisor.TransportSSH:
		switch kind {
		case credentialNone:
			if needed {
				return apierror.InvalidField(field, "is needed to log in to %s: an SSH key or a password", address)
			}
			return nil
		case credentialSSHKey:
			return checkSSHKey(field+".ssh_private_key", c.GetSshPrivateKey())
		case credentialPassword:
			if c.GetPassword() == "" {
				return apierror.InvalidField(field+".password", "is empty")
			}
			return nil
		}
		return apierror.InvalidField(field, "must be an SSH key or a password for this address")
	case hypervisor.TransportTLS:
		switch kind {
		case credentialNone:
			return nil
		case credentialTLS:
			return checkTLS(field+".tls", c.GetTls())
		}
		return apierror.InvalidField(field, "must be a TLS certificate for this address")
	case hypervisor.TransportHTTPS:
		switch kind {
		case credentialNone:
			return nil // a certificate is generated
		case credentialLXD:
			return checkLXD(field+".lxd", c.GetLxd())
		}
		return apierror.InvalidField(field, "must be lxd for this address: a client certificate, a trust token or a trust password")
	default:
		if kind != credentialNone {
			return apierror.InvalidField(field, "is set, but a local socket takes none")
		}
		return nil
	}
}

func checkSSHKey(field, key string) error {
	_, err := ssh.ParseRawPrivateKey([]byte(key))
	if _, locked := err.(*ssh.PassphraseMissingError); locked { //nolint:errorlint // returned bare by its package
		return apierror.InvalidField(field, "has a passphrase; send a key without one")
	}
	if err != nil {
		return apierror.InvalidField(field, "is no SSH private key in PEM or OpenSSH format")
	}
	return nil
}

func checkTLS(field string, c *vmhostv1.TlsCredential) error {
	if c.GetCertificatePem() != "" || c.GetPrivateKeyPem() != "" {
		if _, err := tls.X509KeyPair([]byte(c.GetCertificatePem()), []byte(c.GetPrivateKeyPem())); err != nil {
			return apierror.InvalidField(field, "holds no certificate and private key that belong together, in PEM")
		}
	} else if c.GetCaPem() == "" {
		return apierror.InvalidField(field, "is empty")
	}
	if c.GetCaPem() == "" {
		return nil
	}
	rest := []byte(c.GetCaPem())
	for n := 0; ; n++ {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			if n == 0 || len(bytes.TrimSpace(rest)) > 0 {
				return apierror.InvalidField(field+".ca_pem", "holds something that is no certificate in PEM")
			}
			return nil
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil || block.Type != "CERTIFICATE" {
			return apierror.InvalidField(field+".ca_pem", "holds something that is no certificate in PEM")
		}
	}
}
