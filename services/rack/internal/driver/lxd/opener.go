package lxd

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"time"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// defaultSockets are where LXD listens: as a snap, and as a package.
func defaultSockets() []string {
	return []string{"/var/snap/lxd/common/lxd/unix.socket", "/var/lib/lxd/unix.socket"}
}

// Config is what connections of this driver have in common.
type Config struct {
	// LocalSockets are the paths of LXD's sockets by the name that addresses use
	// for them. The empty name is the default; where it is not given, the snap's
	// socket or else /var/lib/lxd/unix.socket.
	LocalSockets map[string]string
	// Log is for what no caller hears of. Default: nowhere.
	Log *slog.Logger
	// DialTimeout bounds connecting and logging in. Default 15 s.
	DialTimeout time.Duration
	// PingInterval is how often an idle connection is tried. Default 5 s.
	PingInterval time.Duration
	// PingTimeout is how long the server may take to answer a ping before the
	// connection counts as lost. Default 10 s.
	PingTimeout time.Duration
	// AddressInterval is how often addresses are looked for while a running machine
	// of ours has none and somebody listens; while it has some and has just started,
	// ever more seldom. Default 2 s.
	AddressInterval time.Duration
	// OperationInterval is how often an operation of LXD is looked at while no event
	// tells of its end. Default 2 s.
	OperationInterval time.Duration

	// through is put between the driver and the server, by tests.
	through func(c *conn, to api) api
}

func (c Config) withDefaults() Config {
	c.Log = cmp.Or(c.Log, slog.New(slog.DiscardHandler))
	for _, d := range []struct {
		v   *time.Duration
		def time.Duration
	}{
		{&c.DialTimeout, 15 * time.Second},
		{&c.PingInterval, 5 * time.Second},
		{&c.PingTimeout, 10 * time.Second},
		{&c.AddressInterval, 2 * time.Second},
		{&c.OperationInterval, 2 * time.Second},
	} {
		if *d.v <= 0 {
			*d.v = d.def
		}
	}
	return c
}

// Opener makes connections to LXD servers.
type Opener struct {
	cfg      Config
	refusals refusals
}

var _ hypervisor.Opener = (*Opener)(nil)

// NewOpener answers an Opener for LXD addresses.
func NewOpener(cfg Config) *Opener {
	return &Opener{cfg: cfg.withDefaults(), refusals: refusals{had: map[[sha256.Size]byte]error{}}}
}

// Open connects, logs in, and makes sure that the project is there.
func (o *Opener) Open(ctx context.Context, target hypervisor.Target) (hypervisor.Driver, error) {
	ctx, cancel := context.WithTimeout(ctx, o.cfg.DialTimeout)
	defer cancel()
	c, login, err := o.connect(target)
	if err != nil {
		return nil, err
	}
	d, err := o.enter(ctx, c, login, target)
	if err == nil {
		return d, nil
	}
	c.fail(errClosed)
	if errors.Is(err, hypervisor.ErrTimeout) {
		// Nothing was asked for but a connection, so there is no doubt about effects.
		err = &hypervisor.Error{
			Class: hypervisor.ErrUnreachable, Op: "connect to " + target.Address.String(), Err: err,
			Hint: "check that the LXD server runs and that the rack reaches its address",
		}
	}
	return nil, err
}

// connect prepares a connection; nothing is sent yet.
func (o *Opener) connect(target hypervisor.Target) (*conn, *login, error) {
	if target.Address.Type != vmhostv1.VmHostType_VM_HOST_TYPE_LXD {
		return nil, nil, &hypervisor.Error{Class: hypervisor.ErrUnsupported, Op: "connect to hypervisor", Err: errors.New("the address is not of LXD")}
	}
	switch target.Address.Transport {
	case hypervisor.TransportUnix:
		path, err := o.socket(target.Address)
		if err != nil {
			return nil, nil, err
		}
		return newConn(o.cfg, false, func(ctx context.Context) (net.Conn, error) { return dialUnix(ctx, path) }), nil, nil
	case hypervisor.TransportHTTPS:
		l, err := newLogin(target, &o.refusals, time.Now())
		if err != nil {
			return nil, nil, err
		}
		config := clientTLS(target.Address.Host, l.pin, l.identity)
		address := target.Address.HostPort()
		return newConn(o.cfg, true, func(ctx context.Context) (net.Conn, error) { return dialTLS(ctx, address, config) }), l, nil
	default:
		return nil, nil, &hypervisor.Error{
			Class: hypervisor.ErrUnsupported, Op: "connect to hypervisor", Err: fmt.Errorf("no transport %q", target.Address.Transport),
		}
	}
}

// enter logs in and finds out where the driver is.
func (o *Opener) enter(ctx context.Context, c *conn, l *login, target hypervisor.Target) (*Driver, error) {
	server, err := l.server(ctx, c)
	if err != nil {
		return nil, err
	}
	d, err := newDriver(c, o.cfg, target, server)
	if err != nil {
		return nil, err
	}
	if err := d.start(ctx); err != nil {
		d.end(errClosed)
		return nil, err
	}
	return d, nil
}

// HostKey reads the certificate that the address presents.
func (o *Opener) HostKey(ctx context.Context, address hypervisor.Address) (key, fingerprint string, err error) {
	if address.Transport != hypervisor.TransportHTTPS {
		return "", "", nil
	}
	ctx, cancel := context.WithTimeout(ctx, o.cfg.DialTimeout)
	defer cancel()
	pin, err := presentedPin(ctx, address)
	if err != nil {
		return "", "", &hypervisor.Error{Class: hypervisor.ErrUnreachable, Op: "read the certificate of " + address.String(), Err: err}
	}
	return pinPrefix + pin, pin, nil
}

// socket is the path of a socket that the rack's configuration names; an address
// can never name a path.
func (o *Opener) socket(address hypervisor.Address) (string, error) {
	if path, ok := o.cfg.LocalSockets[address.Host]; ok {
		return path, nil
	}
	if address.Host != "" {
		return "", &hypervisor.Error{
			Class: hypervisor.ErrUnreachable, Op: "find LXD's socket", Err: fmt.Errorf("this rack has no local socket named %q", address.Host),
			Hint: "add it under local_sockets in the rack's configuration",
		}
	}
	list := defaultSockets()
	for _, path := range list {
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
	}
	return list[len(list)-1], nil
}

func dialUnix(ctx context.Context, path string) (net.Conn, error) {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", path)
	if errors.Is(err, fs.ErrPermission) {
		return nil, &hypervisor.Error{
			Class: hypervisor.ErrAuth, Op: "connect to LXD's socket", Err: err, Hint: "let the rack's user into the group that may use the socket, usually lxd",
		}
	}
	return conn, err
}
