// Package lab is the hypervisors that figures are measured on: one real libvirt
// host of deploy/devhosts, and one real LXD server where it is asked for, in a lab
// of their own so that nothing else works on them. It reaches them in the ways
// that ours is compared with: go-libvirt on a connection of its own, virsh, and
// LXD's API on its unix socket.
package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	golibvirt "github.com/digitalocean/go-libvirt"
	"github.com/digitalocean/go-libvirt/socket/dialers"
)

// Lab is a libvirt host.
type Lab struct {
	// Host is the host's name, Socket where its libvirtd listens.
	Host, Socket string

	script string
	env    []string
	out    io.Writer
	keep   bool
}

// own are the settings of a lab that stands beside those of `make up` and `make
// test`. Somebody who has set DEVHOSTS_ROOT has a lab to measure on.
var own = []string{ //nolint:gochecknoglobals // a constant that Go has no syntax for
	"DEVHOSTS_ROOT=/var/lib/vmhost-bench", "DEVHOSTS_NET=10.98.0", "DEVHOSTS_BRIDGE=vmhbench0", "DEVHOSTS_COUNT=1",
}

// Up brings the host up. root is the repository, out gets what the script says.
func Up(ctx context.Context, root string, out io.Writer) (*Lab, error) {
	l := &Lab{Host: "h1", script: filepath.Join(root, "deploy/devhosts/devhosts.sh"), env: os.Environ(), out: out}
	l.keep = os.Getenv("DEVHOSTS_ROOT") != ""
	if !l.keep {
		l.env = append(l.env, own...)
	}
	if err := l.devhosts(ctx, out, "up"); err != nil {
		return nil, err
	}
	var err error
	if l.Socket, err = l.setting(ctx, "DEVHOSTS_H1_SOCKET"); err != nil {
		return nil, errors.Join(err, l.Down(ctx))
	}
	return l, nil
}

// Down ends the host, with everything on it, unless it was somebody's before.
func (l *Lab) Down(ctx context.Context) error {
	if l.keep {
		return nil
	}
	return l.devhosts(ctx, l.out, "down")
}

func (l *Lab) devhosts(ctx context.Context, out io.Writer, args ...string) error {
	cmd := exec.CommandContext(ctx, l.script, args...) //nolint:gosec // a script of this repository
	cmd.Env, cmd.Stdout, cmd.Stderr = l.env, out, l.out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("devhosts.sh %s: %w", strings.Join(args, " "), err)
	}
	return nil
}

// Dial opens a connection to libvirtd.
func (l *Lab) Dial() (*golibvirt.Libvirt, error) {
	c := golibvirt.NewWithDialer(dialers.NewLocal(dialers.WithSocket(l.Socket), dialers.WithLocalTimeout(10*time.Second)))
	if err := c.ConnectToURI(golibvirt.QEMUSystem); err != nil {
		return nil, fmt.Errorf("connect to libvirt at %s: %w", l.Socket, err)
	}
	return c, nil
}

// Virsh runs virsh once, in a process of its own.
func (l *Lab) Virsh(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "virsh", append([]string{"-q", "-c", "qemu+unix:///system?socket=" + l.Socket}, args...)...) //nolint:gosec // arguments are ours
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("virsh %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return string(out), nil
}
