package process

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/vmhost-project/vmhost/pkg/client"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// Standalone is a running vmhost, the binary that `make build` made.
type Standalone struct {
	// Client is a client of its gRPC API, over TLS, with the admin's token.
	Client *client.Client
	// JSON is a client of its gateway that keeps connections, and URL where the
	// gateway answers.
	JSON *http.Client
	URL  string
	// Token authenticates JSON calls.
	Token string
	// Ops is where metrics are.
	Ops string

	cmd  *exec.Cmd
	done chan struct{}
	log  *os.File
}

// Options say how a vmhost is started.
type Options struct {
	// Binary is the program, Dir its folder: data and log.
	Binary, Dir string
	// Sockets are libvirt sockets by name.
	Sockets map[string]string
	// Fakes is how many fake hosts there are, fake-1 and so on, which never fill
	// up.
	Fakes int
}

// fakeHosts is configuration that flags cannot express.
const fakeHosts = `fake_hosts:
  - name: fake
    count: %d
    cores: 4096
    memory_mib: 100000000000
    pools:
      - {name: default, capacity_bytes: 1000000000000000000, thin: true}
`

const (
	startLimit = time.Minute
	stopLimit  = 30 * time.Second
)

// StartStandalone starts a vmhost and waits until it is ready.
func StartStandalone(ctx context.Context, o Options) (*Standalone, error) {
	addrs, err := freeAddrs(ctx, 4)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make a folder for vmhost: %w", err)
	}
	s := &Standalone{URL: "https://" + addrs[2], Ops: "http://" + addrs[3], done: make(chan struct{})}
	if s.log, err = os.Create(filepath.Join(o.Dir, "log")); err != nil {
		return nil, fmt.Errorf("make a log for vmhost: %w", err)
	}
	data := filepath.Join(o.Dir, "data")
	args := []string{
		"--data-dir", data, "--api-listen", addrs[0], "--rack-listen", addrs[1], "--gateway-listen", addrs[2], "--ops-listen", addrs[3],
		"--drivers", "libvirt,fake", "--cli-context=false", "--log-format", "json",
	}
	if o.Fakes > 0 {
		config := filepath.Join(o.Dir, "config.yaml")
		if err := os.WriteFile(config, fmt.Appendf(nil, fakeHosts, o.Fakes), 0o600); err != nil {
			return nil, fmt.Errorf("configure vmhost: %w", err)
		}
		args = append(args, "--config", config)
	}
	for name, socket := range o.Sockets {
		args = append(args, "--local-sockets", name+"="+socket)
	}
	// Not ended by ctx: Close asks, so that nothing half-made stays on a host.
	s.cmd = exec.Command(o.Binary, args...) //nolint:gosec,noctx // the binary of this repository, see above
	s.cmd.Env = append(os.Environ(), "HOME="+o.Dir, "XDG_CONFIG_HOME="+o.Dir)
	s.cmd.Stdout, s.cmd.Stderr = s.log, s.log
	if err := s.cmd.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("start vmhost: %w", err), s.log.Close())
	}
	go func() {
		defer close(s.done)
		_ = s.cmd.Wait() // how it ended is in its log
	}()
	if err := s.connect(ctx, data, addrs[0]); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (s *Standalone) connect(ctx context.Context, data, api string) error {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	if err := s.await(ctx, s.ready); err != nil {
		return fmt.Errorf("wait for vmhost to be ready: %w", err)
	}
	token, err := os.ReadFile(filepath.Join(data, "admin.token"))
	if err != nil {
		return fmt.Errorf("read the admin's token: %w", err)
	}
	ca, err := os.ReadFile(filepath.Join(data, "ca.pem"))
	if err != nil {
		return fmt.Errorf("read the CA: %w", err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	s.Token = strings.TrimSpace(string(token))
	s.JSON = &http.Client{Transport: &http.Transport{
		TLSClientConfig:     &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13},
		MaxIdleConnsPerHost: 64,
	}}
	if s.Client, err = client.Dial(client.Options{Endpoint: api, Token: s.Token, CAPEM: ca}); err != nil {
		return fmt.Errorf("connect to vmhost: %w", err)
	}
	return nil
}

func (s *Standalone) ready(ctx context.Context) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.Ops+"/readyz", nil)
	if err != nil {
		return fmt.Errorf("ask whether vmhost is ready: %w", err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("ask whether vmhost is ready: %w", err)
	}
	if err := resp.Body.Close(); err != nil {
		return fmt.Errorf("ask whether vmhost is ready: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return errors.New("vmhost is not ready: " + resp.Status)
	}
	return nil
}

// await tries until it works, vmhost ends, or ctx does.
func (s *Standalone) await(ctx context.Context, try func(context.Context) error) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := try(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-s.done:
			return fmt.Errorf("vmhost ended, see its log %s: %w", s.log.Name(), err)
		case <-ctx.Done():
			return err
		}
	}
}

// AddHost adds a host and waits until machines can be placed there. ratios is how
// far it is overcommitted, on everything.
func (s *Standalone) AddHost(ctx context.Context, id, address string, ratio float64) error {
	_, err := s.Client.VmHosts.CreateVmHost(ctx, &vmhostv1.CreateVmHostRequest{
		VmHostId: id,
		VmHost: &vmhostv1.VmHost{
			Address:    address,
			Overcommit: &vmhostv1.OvercommitRatios{Cores: &ratio, Memory: &ratio, Storage: &ratio},
		},
	})
	if err != nil {
		return fmt.Errorf("add the host %s: %w", id, err)
	}
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	return s.await(ctx, func(ctx context.Context) error {
		h, err := s.Client.VmHosts.GetVmHost(ctx, &vmhostv1.GetVmHostRequest{Name: "vmHosts/" + id})
		if err != nil {
			return fmt.Errorf("look at the host %s: %w", id, err)
		}
		if h.GetState() != vmhostv1.VmHostState_VM_HOST_STATE_READY {
			return fmt.Errorf("the host %s is %v: %v", id, h.GetState(), h.GetConditions())
		}
		return nil
	})
}

// Finish waits until an operation has ended, and well.
func (s *Standalone) Finish(ctx context.Context, op *vmhostv1.Operation) (*vmhostv1.Operation, error) {
	for op.GetEndTime() == nil {
		var err error
		if op, err = s.Client.Operations.WaitOperation(ctx, &vmhostv1.WaitOperationRequest{Name: op.GetName()}); err != nil {
			return nil, fmt.Errorf("wait for %s: %w", op.GetName(), err)
		}
	}
	if op.GetPhase() != vmhostv1.OperationPhase_OPERATION_PHASE_SUCCEEDED {
		return nil, fmt.Errorf("%s of %s: %v: %s", op.GetVerb(), op.GetTarget(), op.GetPhase(), op.GetError().GetMessage())
	}
	return op, nil
}

// Log is the file that vmhost's log is in.
func (s *Standalone) Log() string { return s.log.Name() }

// PID is the process.
func (s *Standalone) PID() int { return s.cmd.Process.Pid }

// Close ends vmhost and waits for it.
func (s *Standalone) Close() error {
	var errs []error
	if s.Client != nil {
		errs = append(errs, s.Client.Close())
		s.JSON.CloseIdleConnections()
	}
	_ = s.cmd.Process.Signal(syscall.SIGTERM) // it may have ended by itself
	select {
	case <-s.done:
	case <-time.After(stopLimit):
		_ = s.cmd.Process.Kill()
		<-s.done
		errs = append(errs, fmt.Errorf("vmhost did not end within %v", stopLimit))
	}
	return errors.Join(append(errs, s.log.Close())...)
}

// freeAddrs are loopback addresses that were free a moment ago.
func freeAddrs(ctx context.Context, n int) ([]string, error) {
	var (
		addrs     []string
		listeners []net.Listener
	)
	// All are held until the last is found, so that none is found twice.
	defer func() {
		for _, l := range listeners {
			_ = l.Close()
		}
	}()
	for range n {
		l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
		if err != nil {
			return nil, fmt.Errorf("find a free port: %w", err)
		}
		listeners = append(listeners, l)
		addrs = append(addrs, l.Addr().String())
	}
	return addrs, nil
}
