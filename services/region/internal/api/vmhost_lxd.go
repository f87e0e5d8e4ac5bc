package api

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"regexp"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	"github.com/vmhost-project/vmhost/pkg/pki"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

// lxdCertificateTTL is how long a generated client certificate is good: LXD pins
// it, so its end only forces an operator to do everything again.
const lxdCertificateTTL = 10 * 365 * 24 * time.Hour

// lxdHostKey is how the SHA-256 of an LXD server's certificate is written.
var lxdHostKey = regexp.MustCompile(`^SHA256:[0-9a-f]{64}$`)

// trustToken is what `lxc config trust add` prints, decoded.
// https://documentation.ubuntu.com/lxd/en/latest/authentication/#adding-client-certificates-using-tokens
type trustToken struct {
	Fingerprint string    `json:"fingerprint"`
	Secret      string    `json:"secret"`
	ExpiresAt   time.Time `json:"expires_at"`
}

func parseTrustToken(field, token string) (trustToken, error) {
	const what = "is no trust token of LXD; copy what `lxc config trust add` printed, whole"
	raw, err := base64.StdEncoding.DecodeString(strings.TrimSpace(token))
	if err != nil {
		return trustToken{}, apierror.InvalidField(field, what)
	}
	var t trustToken
	if err := json.Unmarshal(raw, &t); err != nil || t.Secret == "" || len(t.Fingerprint) != hex.EncodedLen(sha256.Size) {
		return trustToken{}, apierror.InvalidField(field, what)
	}
	if !t.ExpiresAt.IsZero() && time.Now().After(t.ExpiresAt) {
		return trustToken{}, apierror.InvalidField(field, "expired at %s; make another with `lxc config trust add`", t.ExpiresAt.UTC().Format(time.RFC3339))
	}
	return t, nil
}

// checkLXD refuses an LXD credential that could never log in.
func checkLXD(field string, c *vmhostv1.LxdCredential) error {
	certificate, key := c.GetCertificatePem(), c.GetPrivateKeyPem()
	switch {
	case certificate == "" && key != "":
		return apierror.InvalidField(field+".certificate_pem", "is needed with a private key")
	case certificate != "" && key == "":
		return apierror.InvalidField(field+".private_key_pem", "is needed with a certificate")
	case certificate != "":
		if strings.Contains(key, "ENCRYPTED") {
			return apierror.InvalidField(field+".private_key_pem", "has a passphrase; send a key without one")
		}
		pair, err := tls.X509KeyPair([]byte(certificate), []byte(key))
		if err != nil {
			return apierror.InvalidField(field, "holds no certificate and private key that belong together, in PEM")
		}
		if time.Now().After(pair.Leaf.NotAfter) {
			return apierror.InvalidField(field+".certificate_pem", "expired at %s", pair.Leaf.NotAfter.UTC().Format(time.RFC3339))
		}
	}
	if c.GetTrustToken() != "" && c.GetTrustPassword() != "" {
		return apierror.InvalidField(field+".trust_password", "is sent with a trust token; send one of them")
	}
	if c.GetTrustToken() == "" {
		return nil
	}
	_, err := parseTrustToken(field+".trust_token", c.GetTrustToken())
	return err
}

// tokenHostKey is the host key that a trust token names; empty without a token.
func tokenHostKey(field, keyField, sent string, c *vmhostv1.Credential) (string, error) {
	if c.GetLxd().GetTrustToken() == "" {
		return sent, nil
	}
	t, err := parseTrustToken(field+".trust_token", c.GetLxd().GetTrustToken())
	if err != nil {
		return "", err
	}
	named := "SHA256:" + strings.ToLower(t.Fingerprint)
	if sent != "" && sent != named {
		return "", apierror.InvalidField(keyField, "is not that of the server that made the trust token, %s", named)
	}
	return named, nil
}

// completeLXD is the credential of an LXD host with a client certificate of its
// own. It is made before the transaction, so that a repeated try keeps it.
func completeLXD(host string, address hypervisor.Address, c *vmhostv1.Credential) (*vmhostv1.Credential, error) {
	if address.Transport != hypervisor.TransportHTTPS || c.GetLxd().GetCertificatePem() != "" || c.GetLxd().GetPrivateKeyPem() != "" {
		return c, nil
	}
	if c != nil && credentialKind(c) != credentialLXD && credentialKind(c) != credentialNone {
		return c, nil // refused by checkCredential, in its words
	}
	certPEM, keyPEM, err := pki.NewClientCertificate("vmhost-"+host, lxdCertificateTTL)
	if err != nil {
		return nil, err
	}
	out := &vmhostv1.LxdCredential{}
	if c.GetLxd() != nil {
		out = proto.CloneOf(c.GetLxd())
	}
	out.CertificatePem, out.PrivateKeyPem = string(certPEM), string(keyPEM)
	return &vmhostv1.Credential{Kind: &vmhostv1.Credential_Lxd{Lxd: out}}, nil
}

// credentialInfo is the public part of a credential, nil when it has none.
func credentialInfo(c *vmhostv1.Credential) *vmhostv1.CredentialInfo {
	switch kind := c.GetKind().(type) {
	case *vmhostv1.Credential_SshPrivateKey:
		signer, err := ssh.ParsePrivateKey([]byte(kind.SshPrivateKey))
		if err != nil {
			return nil
		}
		return &vmhostv1.CredentialInfo{SshPublicKey: strings.TrimSpace(string(ssh.MarshalAuthorizedKey(signer.PublicKey())))}
	case *vmhostv1.Credential_Tls:
		return certificateInfo(kind.Tls.GetCertificatePem())
	case *vmhostv1.Credential_Lxd:
		info := certificateInfo(kind.Lxd.GetCertificatePem())
		if info != nil {
			info.TrustSecretStored = hasTrustSecret(c)
		}
		return info
	}
	return nil
}

func certificateInfo(text string) *vmhostv1.CredentialInfo {
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return nil
	}
	certificate, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil
	}
	return &vmhostv1.CredentialInfo{
		CertificatePem:         string(pem.EncodeToMemory(block)),
		CertificateFingerprint: fmt.Sprintf("%x", sha256.Sum256(block.Bytes)),
		CertificateExpireTime:  timestamppb.New(certificate.NotAfter),
	}
}

func hasTrustSecret(c *vmhostv1.Credential) bool {
	return c.GetLxd().GetTrustToken() != "" || c.GetLxd().GetTrustPassword() != ""
}

// freshCredential is the credential that a new host gets.
func freshCredential(host string, spec *vmhostv1.VmHost) (*vmhostv1.Credential, error) {
	address, err := checkAddress("vm_host.address", spec.GetType(), spec.GetAddress())
	if err != nil {
		return nil, err
	}
	return completeLXD(host, address, spec.GetCredential())
}

// sentCredential is the credential of an update. What makes an LXD server trust
// us may be sent alone: it is for the certificate that the host has.
func (s *vmHosts) sentCredential(v *store.View, before, in *vmhostv1.VmHost) (*vmhostv1.Credential, error) {
	sent := in.GetCredential()
	if sent.GetLxd() == nil || sent.GetLxd().GetCertificatePem() != "" || sent.GetLxd().GetPrivateKeyPem() != "" {
		return sent, nil
	}
	if before.GetCredentialKind() != credentialLXD {
		return freshCredential(idOf(before.GetName()), &vmhostv1.VmHost{Type: before.GetType(), Address: before.GetAddress(), Credential: sent})
	}
	kept, err := s.credentialOf(v, before.GetName())
	if err != nil {
		return nil, err
	}
	out := proto.CloneOf(sent)
	out.GetLxd().CertificatePem, out.GetLxd().PrivateKeyPem = kept.GetLxd().GetCertificatePem(), kept.GetLxd().GetPrivateKeyPem()
	return out, nil
}
