package enroll_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	"github.com/vmhost-project/vmhost/pkg/pki"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/rack/internal/enroll"
	"github.com/vmhost-project/vmhost/services/rack/internal/stubregion"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func load(t *testing.T, dir string) *enroll.Store {
	t.Helper()
	s, err := enroll.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// renew asks for a certificate over a connection made with the identity.
func renew(t *testing.T, s *enroll.Store, address string) error {
	t.Helper()
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(credentials.NewTLS(s.TLS(host))))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, err = rackv1.NewRackServiceClient(conn).RenewCertificate(t.Context(), &rackv1.RenewCertificateRequest{Csr: []byte("none")})
	return err
}

func TestEnrolledIdentitySurvivesARestart(t *testing.T) {
	region, dir := stubregion.Start(t), t.TempDir()
	s := load(t, dir)
	if s.Enrolled() {
		t.Fatal("a new folder has an identity")
	}
	token := region.Token("t1")
	token.Endpoints = append([]string{"127.0.0.1:1"}, token.Endpoints...) // the first is down
	if err := s.Enroll(t.Context(), token); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(filepath.Join(dir, "identity.json"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("identity file: mode %v, error %v", info.Mode(), err)
	}
	again := load(t, dir)
	if again.Rack() != "racks/r1" || !again.Trusts(token) || time.Until(again.Expiry()) < 23*time.Hour {
		t.Errorf("rack %q, trusts %v, expires %v", again.Rack(), again.Trusts(token), again.Expiry())
	}
	sealed := region.Seal(t, []byte("uid/7"), []byte("credential"))
	if plain, err := again.Unseal([]byte("uid/7"), sealed); err != nil || string(plain) != "credential" {
		t.Errorf("unsealed %q, error %v", plain, err)
	}
	if _, err := again.Unseal([]byte("uid/8"), sealed); err == nil {
		t.Error("a credential is opened with another epoch")
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("folder has %v, error %v; want the identity only", entries, err)
	}
}

func TestATokenThatIsNotTakenIsATypedReason(t *testing.T) {
	region := stubregion.Start(t)
	s := load(t, t.TempDir())
	token := region.Token("t1")
	token.ID = "t2"
	err := s.Enroll(t.Context(), token)
	if !errors.Is(err, enroll.ErrTokenInvalid) || enroll.Retryable(err) || s.Enrolled() {
		t.Errorf("error %v, retryable %v, enrolled %v", err, enroll.Retryable(err), s.Enrolled())
	}
}

func TestARegionWithAnotherCAIsSentNoSecret(t *testing.T) {
	region, other := stubregion.Start(t), stubregion.Start(t)
	token := region.Token("t1")
	token.Endpoints = []string{other.Address}
	err := load(t, t.TempDir()).Enroll(t.Context(), token)
	if err == nil {
		t.Fatal("enrolled at a region that is not the token's")
	}
	token.Endpoints = []string{region.Address} // the token was not used up
	if err := load(t, t.TempDir()).Enroll(t.Context(), token); err != nil {
		t.Errorf("enroll at the right region: %v", err)
	}
}

func TestAFolderThatCannotBeWrittenCostsNoToken(t *testing.T) {
	region := stubregion.Start(t)
	s := load(t, filepath.Join(t.TempDir(), "missing"))
	token := region.Token("t1")
	if err := s.Enroll(t.Context(), token); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("enroll without a folder: %v", err)
	}
	if err := load(t, t.TempDir()).Enroll(t.Context(), token); err != nil {
		t.Errorf("the token was used up: %v", err)
	}
}

func TestARegionIsKnownByItsCAAndItsName(t *testing.T) {
	region, other := stubregion.Start(t), stubregion.Start(t)
	s := load(t, t.TempDir())
	if err := s.Enroll(t.Context(), region.Token("t1")); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		address, name string
		good          bool
	}{{region.Address, "127.0.0.1", true}, {region.Address, "127.0.0.2", false}, {region.Address, "region.example", false}, {other.Address, "127.0.0.1", false}} {
		conn, err := (&tls.Dialer{Config: s.TLS(test.name)}).DialContext(t.Context(), "tcp", test.address)
		if err == nil {
			conn.Close()
		}
		if (err == nil) != test.good {
			t.Errorf("%s as %s: %v", test.address, test.name, err)
		}
	}
}

func TestWipedIdentityIsGone(t *testing.T) {
	region, dir := stubregion.Start(t), t.TempDir()
	s := load(t, dir)
	if err := s.Enroll(t.Context(), region.Token("t1")); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := s.Wipe(); err != nil {
			t.Fatal(err)
		}
	}
	if s.Enrolled() || load(t, dir).Enrolled() {
		t.Error("the identity is still there")
	}
	if err := renew(t, s, region.Address); err == nil {
		t.Error("a connection is made without identity")
	}
}

func TestADamagedIdentityIsNamedAndNotShown(t *testing.T) {
	region, dir := stubregion.Start(t), t.TempDir()
	if err := load(t, dir).Enroll(t.Context(), region.Token("t1")); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "identity.json")
	if err := os.Truncate(path, 100); err != nil {
		t.Fatal(err)
	}
	if _, err := enroll.Load(dir); err == nil {
		t.Error("a torn identity is loaded")
	}
}

// certifier signs what it is asked to, and fails first.
type certifier struct {
	authority *pki.Authority
	failures  int
	keys      []string
	times     []time.Time
	enough    func()
}

func (c *certifier) RenewCertificate(_ context.Context, r *rackv1.RenewCertificateRequest) (*rackv1.RenewCertificateResponse, error) {
	if c.failures > 0 {
		c.failures--
		return nil, errors.New("no connection")
	}
	c.keys = append(c.keys, string(r.GetCsr()))
	if c.times = append(c.times, time.Now()); len(c.times) == 5 {
		c.enough()
	}
	chain, _, err := c.authority.RackCertificate(r.GetCsr(), "deployment", "rack-uid", 24*time.Hour)
	return &rackv1.RenewCertificateResponse{Certificates: chain, CaCertificates: [][]byte{c.authority.CertDER()}}, err
}

func TestARackShowsARegionItsCertificateAlone(t *testing.T) {
	region, dir := stubregion.Start(t), t.TempDir()
	s := load(t, dir)
	if err := s.Enroll(t.Context(), region.Token("t1")); err != nil {
		t.Fatal(err)
	}
	shown, err := s.TLS("127.0.0.1").GetClientCertificate(nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(shown.Certificate) != 1 || string(shown.Certificate[0]) != string(shown.Leaf.Raw) {
		t.Errorf("%d certificates are shown", len(shown.Certificate))
	}
	if err := renew(t, s, region.Token("t2").Endpoints[0]); apierror.Reason(err) == vmhostv1.ErrorReason_RACK_MUST_ENROLL {
		t.Errorf("the region does not take it: %v", err)
	}
}

func TestCertificateIsRenewedAtHalfItsLifeWithANewKey(t *testing.T) {
	region, dir := stubregion.Start(t), t.TempDir()
	region.SetTTL(365 * 24 * time.Hour) // the bubble's clock is in another year
	if err := load(t, dir).Enroll(t.Context(), region.Token("t1")); err != nil {
		t.Fatal(err)
	}
	region.SetTTL(24 * time.Hour)
	synctest.Test(t, func(t *testing.T) {
		s := load(t, dir)
		ctx, cancel := context.WithCancel(t.Context())
		c := &certifier{authority: region.Authority, failures: 3, enough: cancel}
		if err := s.Renew(ctx, c, slog.New(slog.DiscardHandler)); err != nil {
			t.Error(err)
		}
		for i := 1; i < len(c.times); i++ {
			if gap := c.times[i].Sub(c.times[i-1]); gap < 10*time.Hour || gap > 14*time.Hour {
				t.Errorf("renewed after %v of 24 hours", gap)
			}
			if c.keys[i] == c.keys[i-1] {
				t.Error("the key was kept")
			}
		}
		if got := load(t, dir).Expiry(); !got.Equal(s.Expiry()) {
			t.Errorf("on disk is the certificate until %v, in use the one until %v", got, s.Expiry())
		}
	})
}

func TestACertificateForAnotherKeyIsNotKept(t *testing.T) {
	region, dir := stubregion.Start(t), t.TempDir()
	s := load(t, dir)
	if err := s.Enroll(t.Context(), region.Token("t1")); err != nil {
		t.Fatal(err)
	}
	before := s.Expiry()
	other := load(t, t.TempDir())
	if err := other.Enroll(t.Context(), region.Token("t2")); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	thief := certifierFunc(func(*rackv1.RenewCertificateRequest) (*rackv1.RenewCertificateResponse, error) {
		cancel()
		return &rackv1.RenewCertificateResponse{Certificates: [][]byte{region.Authority.CertDER()}, CaCertificates: [][]byte{region.Authority.CertDER()}}, nil
	})
	if err := enroll.RenewNow(ctx, s, thief); err == nil || !s.Expiry().Equal(before) {
		t.Errorf("error %v, certificate until %v, want it until %v", err, s.Expiry(), before)
	}
}

type certifierFunc func(*rackv1.RenewCertificateRequest) (*rackv1.RenewCertificateResponse, error)

func (f certifierFunc) RenewCertificate(_ context.Context, r *rackv1.RenewCertificateRequest) (*rackv1.RenewCertificateResponse, error) {
	return f(r)
}
