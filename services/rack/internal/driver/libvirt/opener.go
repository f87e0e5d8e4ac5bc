package libvirt

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"time"

	lv "github.com/digitalocean/go-libvirt"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

const defaultSocket = "/var/run/libvirt/libvirt-sock"

// Config is what connections of this driver have in common.
type Config struct {
	// LocalSockets are the paths of libvirt sockets by the name that addresses
	// use for them. The empty name is the default, /var/run/libvirt/libvirt-sock
	// where it is not given.
	LocalSockets map[string]string
	// Log is for what no caller hears of. Default: nowhere.
	Log *slog.Logger
	// DialTimeout bounds connecting and logging in. Default 15 s.
	DialTimeout time.Duration
	// PingInterval is how often an idle connection is tried. Default 5 s.
	PingInterval time.Duration
	// PingTimeout is how long the peer may be silent after a ping before the
	// connection counts as lost. Default 10 s: libvirtd answers a ping on a
	// thread of its own, but not while the machine it is on swaps.
	PingTimeout time.Duration
	// LeaseInterval is how often DHCP leases are read while a running machine of
	// ours has no address and somebody listens. Default 2 s.
	LeaseInterval time.Duration
}

func (c Config) withDefaults() Config {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	for _, d := range []struct {
		v   *time.Duration
		def time.Duration
	}{
		{&c.DialTimeout, 15 * time.Second},
		{&c.PingInterval, 5 * time.Second},
		{&c.PingTimeout, 10 * time.Second},
		{&c.LeaseInterval, 2 * time.Second},
	} {
		if *d.v <= 0 {
			*d.v = d.def
		}
	}
	return c
}

// Opener makes connections to libvirt.
type Opener struct{ cfg Config }

var _ hypervisor.Opener = (*Opener)(nil)

// NewOpener answers an Opener for libvirt addresses.
func NewOpener(cfg Config) *Opener { return &Opener{cfg: cfg.withDefaults()} }

// Open connects and logs in.
func (o *Opener) Open(ctx context.Context, target hypervisor.Target) (hypervisor.Driver, error) {
	ctx, cancel := context.WithTimeout(ctx, o.cfg.DialTimeout)
	defer cancel()
	c, err := o.connect(ctx, target, false)
	if err != nil {
		return nil, err
	}
	d, err := newDriver(ctx, c, o, target)
	if err != nil {
		c.fail(errClosed)
		return nil, err
	}
	return d, nil
}

// connect makes a connection to libvirt's QEMU driver; streams: for calls with
// streams, and for no others.
func (o *Opener) connect(ctx context.Context, target hypervisor.Target, streams bool) (*conn, error) {
	if target.Address.Type != vmhostv1.VmHostType_VM_HOST_TYPE_LIBVIRT {
		return nil, &hypervisor.Error{Class: hypervisor.ErrUnsupported, Op: "connect to hypervisor", Err: errors.New("the address is not of libvirt")}
	}
	wire, err := o.dial(ctx, target)
	if err != nil {
		return nil, asHypervisorError("connect to "+target.Address.String(), err)
	}
	var read net.Conn = wire
	if streams {
		read = newStreamWire(wire)
	}
	l := lv.NewWithDialer(fixedDialer{read})
	c := newConn(l, wire)
	err = do(ctx, c, "open libvirt's QEMU driver", fast, func(api) error { return l.ConnectToURI(lv.QEMUSystem) })
	if err != nil {
		c.fail(errClosed)
		if errors.Is(err, hypervisor.ErrTimeout) {
			// Nothing was asked for but a connection, so there is no doubt about effects.
			err = &hypervisor.Error{
				Class: hypervisor.ErrUnreachable, Op: "connect to " + target.Address.String(),
				Err: fmt.Errorf("libvirtd accepted the connection and does not answer: %w", err),
			}
		}
		return nil, err
	}
	return c, nil
}

func (o *Opener) dial(ctx context.Context, target hypervisor.Target) (*guardedConn, error) {
	switch target.Address.Transport {
	case hypervisor.TransportUnix:
		return o.dialUnix(ctx, target.Address)
	case hypervisor.TransportSSH:
		return dialSSH(ctx, target)
	case hypervisor.TransportTLS:
		return dialTLS(ctx, target)
	default:
		return nil, &hypervisor.Error{Class: hypervisor.ErrUnsupported, Op: "connect to hypervisor", Err: fmt.Errorf("no transport %q", target.Address.Transport)}
	}
}

// HostKey reads the key that the address presents.
func (o *Opener) HostKey(ctx context.Context, address hypervisor.Address) (key, fingerprint string, err error) {
	ctx, cancel := context.WithTimeout(ctx, o.cfg.DialTimeout)
	defer cancel()
	switch address.Transport {
	case hypervisor.TransportSSH:
		key, fingerprint, err = sshHostKey(ctx, address)
	case hypervisor.TransportTLS:
		key, err = tlsPin(ctx, address)
		fingerprint = key
	default:
		return "", "", nil
	}
	if err != nil {
		return "", "", asHypervisorError("read the host key of "+address.String(), err)
	}
	return key, fingerprint, nil
}

// dialUnix connects to a socket that the rack's configuration names; an address
// can never name a path.
func (o *Opener) dialUnix(ctx context.Context, address hypervisor.Address) (*guardedConn, error) {
	path, ok := o.cfg.LocalSockets[address.Host]
	if !ok && address.Host == "" {
		path, ok = defaultSocket, true
	}
	if !ok {
		return nil, &hypervisor.Error{
			Class: hypervisor.ErrUnreachable, Op: "find libvirt's socket", Err: fmt.Errorf("this rack has no local socket named %q", address.Host),
			Hint: "add it under local_sockets in the rack's configuration",
		}
	}
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", path)
	if err != nil {
		out := &hypervisor.Error{Class: hypervisor.ErrUnreachable, Op: "connect to libvirt's socket", Err: err, Hint: "check that libvirtd runs on the rack's machine"}
		if errors.Is(err, fs.ErrPermission) {
			out.Class, out.Hint = hypervisor.ErrAuth, "let the rack's user into the group that may use the socket, on Debian libvirt"
		}
		return nil, out
	}
	return guard(conn, nil), nil
}

// asHypervisorError makes what a dialer answered a failure to reach the host,
// unless it knows better.
func asHypervisorError(op string, err error) error {
	if e, ok := errors.AsType[*hypervisor.Error](err); ok {
		return e
	}
	return &hypervisor.Error{Class: hypervisor.ErrUnreachable, Op: op, Err: err}
}
