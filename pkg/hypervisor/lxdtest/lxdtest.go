// Package lxdtest gives tests the real LXD servers of deploy/devhosts: where
// they are, what they trust, and a way to look at them by LXD's own client, not
// by any code of ours. It starts no server and no goroutine; `make test` brings
// the servers up, and so does deploy/devhosts/devhosts.sh up lxd1.
//
// Servers are shared by all tests of all packages. A test names what it makes so
// that nobody else's is hit, and removes it (Server.Clean).
package lxdtest

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Server is one LXD server of the development hosts.
type Server struct {
	// Name is what deploy/devhosts calls it: lxd1, lxd2 and lxd3 stand alone, lxdc1 and
	// lxdc2 are members of one cluster, lxdvm runs virtual machines.
	Name string
	// URL is its API on the network: https://<address>:8443.
	URL string
	// IP is the address in URL.
	IP string
	// Socket is the path of its unix socket.
	Socket string
	// CertificateFile is the path of its certificate in PEM. All members of a
	// cluster show the same one.
	CertificateFile string
	// Fingerprint is the SHA-256 of that certificate, in lower case hexadecimal.
	Fingerprint string
	// Password is its trust password.
	Password string

	conf     string
	patience time.Duration
}

// How long LXD's client may take for one thing, and where the server itself is
// emulated.
const (
	clientPatience = time.Minute
	longPatience   = 10 * time.Minute
)

// Devhost is the server of that name. Without it the test is skipped, and listed
// as such: exactly as tests of libvirt are without its hosts.
func Devhost(t testing.TB, name string) Server {
	t.Helper()
	prefix := "DEVHOSTS_" + strings.ToUpper(name) + "_"
	env := func(key string) string {
		v := os.Getenv(prefix + key)
		if v == "" {
			t.Skipf("%s is not set: needs deploy/devhosts/devhosts.sh up %s, and its env", prefix+key, name)
		}
		return v
	}
	patience := clientPatience
	if name == "lxdvm" {
		patience = longPatience
	}
	return Server{
		Name: name, URL: env("URL"), IP: env("IP"), Socket: env("SOCKET"),
		CertificateFile: env("CERTIFICATE"), Fingerprint: env("FINGERPRINT"), Password: env("PASSWORD"),
		conf: t.TempDir(), patience: patience,
	}
}

// LongDevhost is Devhost for a server that only the longer form of the tests
// brings up, because it takes minutes and all cores.
func LongDevhost(t testing.TB, name string) Server {
	t.Helper()
	if os.Getenv("VMHOST_LONG") == "" {
		t.Skipf("needs %s, which is part of the longer form: make test-long", name)
	}
	return Devhost(t, name)
}

// Token is a new trust token, for one client, once. It ends with the test.
func (s Server) Token(t testing.TB) string {
	t.Helper()
	client := "lxdtest-" + strings.ReplaceAll(t.Name(), "/", "-")
	words := strings.Fields(s.Lxc(t, "config", "trust", "add", "--name", client))
	if len(words) == 0 {
		t.Fatalf("%s gave no trust token", s.Name)
	}
	t.Cleanup(func() { _, _ = s.TryLxc("config", "trust", "revoke-token", client) })
	return words[len(words)-1]
}

// Lxc is what LXD's client prints when it is run with these arguments on the
// server's unix socket. The test ends if it fails.
func (s Server) Lxc(t testing.TB, args ...string) string {
	t.Helper()
	out, err := s.TryLxc(args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TryLxc is Lxc for what may fail; the error has what the client said. It never
// takes longer than a minute, ten where the server is emulated.
func (s Server) TryLxc(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), s.patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "lxc", append([]string{"--quiet"}, args...)...) //nolint:gosec // the arguments are those of a test
	cmd.Env = append(os.Environ(), "LXD_DIR="+filepath.Dir(s.Socket), "LXD_CONF="+s.conf)
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("run lxc %s on %s: %w: %s", strings.Join(args, " "), s.Name, err, strings.TrimSpace(said.String()))
	}
	return strings.TrimRight(out.String(), "\n"), nil
}

// whole ends what a script printed.
const whole = "-- this is all of it --"

// Run is what a script prints in a running container of a project. LXD before
// 5.14 loses now and then what is printed on a busy machine, and says that all is
// well (https://github.com/canonical/lxd/issues/11422): the script runs again if
// its end is missing, so that it must be one that may.
func (s Server) Run(t testing.TB, project, name, script string) string {
	t.Helper()
	const tries = 10
	for range tries {
		out := s.Lxc(t, "--project", project, "exec", name, "--", "sh", "-c", "{ "+script+"\n} && echo '"+whole+"'")
		if out, ok := strings.CutSuffix(out, whole); ok {
			return strings.TrimRight(out, "\n")
		}
		t.Logf("%s lost what was printed in %s, which says %q", s.Name, name, out)
	}
	t.Fatalf("%s did not tell in %d tries what a script prints in %s", s.Name, tries, name)
	return ""
}

// Clean deletes these instances of the default project at the end of the test,
// whatever state they are in, and whether they are there or not.
func (s Server) Clean(t testing.TB, instances ...string) {
	t.Helper()
	t.Cleanup(func() {
		for _, i := range instances {
			_, _ = s.TryLxc("delete", "--force", i)
		}
	})
}
