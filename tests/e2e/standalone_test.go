package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vmhost-project/vmhost/pkg/client"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// standalone is a vmhost process with a data folder of its own.
type standalone struct {
	t       *testing.T
	dir     string
	api     string
	rack    string
	gateway string
	ops     string
	sockets string
	flags   []string

	cmd  *exec.Cmd
	done chan struct{}
	log  *lockedBuffer

	client *client.Client // of the process that runs now, once somebody asked for it
}

// lockedBuffer collects what a process says.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// newStandalone starts vmhost with the hosts' sockets as its local sockets, and
// ends it with the test.
func newStandalone(t *testing.T, hosts ...devHost) *standalone {
	t.Helper()
	return newStandaloneWith(t, nil, hosts...)
}

// newStandaloneWith is newStandalone with more flags of vmhost.
func newStandaloneWith(t *testing.T, flags []string, hosts ...devHost) *standalone {
	t.Helper()
	var sockets []string
	for _, h := range hosts {
		sockets = append(sockets, h.name+"="+h.socket)
	}
	s := &standalone{
		t: t, dir: t.TempDir(), log: &lockedBuffer{},
		api: freeAddr(t), rack: freeAddr(t), gateway: freeAddr(t), ops: freeAddr(t),
		sockets: strings.Join(sockets, ","), flags: flags,
	}
	s.start()
	t.Cleanup(func() {
		s.stop(syscall.SIGTERM)
		if t.Failed() {
			t.Logf("log of vmhost:\n%s", s.log)
		}
		if strings.Contains(s.log.String(), "DATA RACE") {
			t.Errorf("vmhost has a data race:\n%s", s.log)
		}
	})
	return s
}

// freeAddr is a loopback address that nobody listens on, and that no outgoing
// connection takes by chance while vmhost is starting, or is down in between: its
// port is below those that the kernel gives out by itself.
func freeAddr(t *testing.T) string {
	t.Helper()
	const first, count = 20_000, 10_000
	for range 100 {
		addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(first+rand.IntN(count)))
		l, err := net.Listen("tcp", addr)
		if err != nil {
			continue
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		return addr
	}
	t.Fatal("no free port found in 100 tries")
	return ""
}

func (s *standalone) start() {
	s.t.Helper()
	s.client = nil
	s.cmd = exec.Command(binary(s.t, "vmhost"), append([]string{
		"--data-dir", filepath.Join(s.dir, "data"),
		"--api-listen", s.api, "--rack-listen", s.rack, "--gateway-listen", s.gateway, "--ops-listen", s.ops,
		"--local-sockets", s.sockets, "--log-format", "json", "--log-level", "debug",
	}, s.flags...)...)
	s.cmd.Env = append(os.Environ(), "HOME="+s.dir, "XDG_CONFIG_HOME="+filepath.Join(s.dir, "config"))
	s.cmd.Stdout, s.cmd.Stderr = s.log, s.log
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.done = make(chan struct{})
	go func() {
		defer close(s.done)
		_ = s.cmd.Wait()
	}()
	await(s.t, 60*time.Second, "vmhost to become ready", func(ctx context.Context) error {
		select {
		case <-s.done:
			s.t.Fatalf("vmhost ended while starting:\n%s", s.log)
		default:
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.ops+"/readyz", nil)
		if err != nil {
			return err
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			body, _ := io.ReadAll(resp.Body)
			return errors.New(resp.Status + " " + string(body))
		}
		return nil
	})
}

// stop ends the process with a signal and waits for it.
func (s *standalone) stop(signal os.Signal) {
	s.t.Helper()
	_ = s.cmd.Process.Signal(signal)
	select {
	case <-s.done:
	case <-time.After(30 * time.Second):
		s.t.Errorf("vmhost did not end within 30 s of %v", signal)
		_ = s.cmd.Process.Kill()
		<-s.done
	}
}

func (s *standalone) file(name string) []byte {
	s.t.Helper()
	b, err := os.ReadFile(filepath.Join(s.dir, "data", name))
	if err != nil {
		s.t.Fatal(err)
	}
	return b
}

func (s *standalone) token() string { return strings.TrimSpace(string(s.file("admin.token"))) }

// grpc is a client with the admin's token. There is one for each start of vmhost:
// tests ask for it while they wait, and each connection costs memory on both sides.
func (s *standalone) grpc() *client.Client {
	s.t.Helper()
	if s.client != nil {
		return s.client
	}
	c, err := client.Dial(client.Options{Endpoint: s.api, Token: s.token(), CAPEM: s.file("ca.pem")})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = c.Close() })
	s.client = c
	return c
}

// json calls the gateway and answers with the status and the body.
func (s *standalone) json(method, path, body string) (int, string) {
	s.t.Helper()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(s.file("ca.pem"))
	hc := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13}}}
	defer hc.CloseIdleConnections()
	req, err := http.NewRequestWithContext(s.t.Context(), method, "https://"+s.gateway+path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+s.token())
	req.Header.Set("Content-Type", "application/json")
	resp, err := hc.Do(req)
	if err != nil {
		s.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer resp.Body.Close()
	out, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return resp.StatusCode, string(out)
}

// ctl runs vmhostctl with the context that vmhost made ready, and answers with
// what it printed and its exit code.
func (s *standalone) ctl(args ...string) (stdout, stderr string, code int) {
	s.t.Helper()
	return s.ctlIn("", args...)
}

// command is vmhostctl with the context that vmhost made ready.
func (s *standalone) command(args ...string) *exec.Cmd {
	s.t.Helper()
	cmd := exec.CommandContext(s.t.Context(), binary(s.t, "vmhostctl"), args...)
	cmd.Env = append(os.Environ(), "HOME="+s.dir, "XDG_CONFIG_HOME="+filepath.Join(s.dir, "config"))
	return cmd
}

// ctlIn is ctl with something on standard input.
func (s *standalone) ctlIn(in string, args ...string) (stdout, stderr string, code int) {
	s.t.Helper()
	cmd := s.command(args...)
	cmd.Stdin = strings.NewReader(in)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return out.String(), errs.String(), exit.ExitCode()
	}
	if err != nil {
		s.t.Fatal(err)
	}
	return out.String(), errs.String(), 0
}

// mustCtl is ctl for what must succeed.
func (s *standalone) mustCtl(args ...string) string {
	s.t.Helper()
	out, errs, code := s.ctl(args...)
	if code != 0 {
		s.t.Fatalf("vmhostctl %s: exit code %d\n%s%s", strings.Join(args, " "), code, out, errs)
	}
	return out
}

// in is the same vmhost for a subtest, which fails by itself.
func (s *standalone) in(t *testing.T) *standalone {
	t.Helper()
	sub := *s
	sub.t = t
	return &sub
}

// addHost adds a development host by its socket and waits until it is ready.
func (s *standalone) addHost(h devHost, more ...string) {
	s.t.Helper()
	s.mustCtl(append([]string{"vm-host", "add", h.name, "qemu+unix://" + h.name + "/system"}, more...)...)
}

// finish waits for an operation to end.
func finish(t *testing.T, c *client.Client, op *vmhostv1.Operation) *vmhostv1.Operation {
	t.Helper()
	name := op.GetName()
	await(t, 3*time.Minute, name+" to end", func(ctx context.Context) error {
		got, err := c.Operations.WaitOperation(ctx, &vmhostv1.WaitOperationRequest{Name: name})
		if err != nil {
			return err
		}
		if got.GetEndTime() == nil {
			return errors.New(got.GetPhase().String() + " " + got.GetMessage())
		}
		op = got
		return nil
	})
	return op
}

// await tries until it works; the limit is there to end a broken run, not to
// judge how fast it was.
func await(t *testing.T, limit time.Duration, what string, try func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		err := try(ctx)
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("waited %v for %s: %v", limit, what, err)
		case <-tick.C:
		}
	}
}
