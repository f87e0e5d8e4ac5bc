package lxdtest

import (
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// What the environment says about a server is what the server itself says.
func TestAServerIsWhatItsEnvironmentSays(t *testing.T) {
	for _, name := range []string{"lxd1", "lxd2", "lxdc1", "lxdc2"} {
		t.Run(name, func(t *testing.T) {
			s := Devhost(t, name)
			conn, err := tls.Dial("tcp", strings.TrimPrefix(s.URL, "https://"), &tls.Config{InsecureSkipVerify: true})
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			sum := sha256.Sum256(conn.ConnectionState().PeerCertificates[0].Raw)
			if got := hex.EncodeToString(sum[:]); got != s.Fingerprint {
				t.Errorf("it shows the certificate %s, its environment has %s", got, s.Fingerprint)
			}
			var server struct {
				Environment struct {
					ServerName      string `json:"server_name"`
					ServerClustered bool   `json:"server_clustered"`
				}
			}
			if err := json.Unmarshal([]byte(s.Lxc(t, "query", "/1.0")), &server); err != nil {
				t.Fatal(err)
			}
			if server.Environment.ServerName != name {
				t.Errorf("on the socket of %s is %s", name, server.Environment.ServerName)
			}
			if clustered := strings.HasPrefix(name, "lxdc"); server.Environment.ServerClustered != clustered {
				t.Errorf("clustered: %v, want %v", server.Environment.ServerClustered, clustered)
			}
		})
	}
}

func TestATokenNamesTheServerItIsFor(t *testing.T) {
	s := Devhost(t, "lxd1")
	b, err := base64.StdEncoding.DecodeString(s.Token(t))
	if err != nil {
		t.Fatal(err)
	}
	var token struct {
		Fingerprint string
		Addresses   []string
		Secret      string
	}
	if err := json.Unmarshal(b, &token); err != nil {
		t.Fatal(err)
	}
	if token.Fingerprint != s.Fingerprint || !slices.Contains(token.Addresses, s.IP+":8443") || token.Secret == "" {
		t.Errorf("token is for %s at %v, the server is %s at %s", token.Fingerprint, token.Addresses, s.Fingerprint, s.IP)
	}
	if other := s.Token(t); other == base64.StdEncoding.EncodeToString(b) {
		t.Error("two tokens are the same")
	}
}

func TestAContainerIsCleanedWhateverItsState(t *testing.T) {
	s := Devhost(t, "lxd1")
	t.Run("running", func(t *testing.T) {
		s.Clean(t, "lxdtest-clean", "lxdtest-never-there")
		s.Lxc(t, "launch", "tiny", "lxdtest-clean")
	})
	if out, err := s.TryLxc("info", "lxdtest-clean"); err == nil {
		t.Errorf("it is still there: %s", out)
	}
}

// A client that loses what was printed, as LXD's does, is asked again.
func TestWhatAScriptPrintsIsToldWhole(t *testing.T) {
	dir := t.TempDir()
	client := "#!/bin/sh\nn=$(cat " + dir + "/n 2>/dev/null)\necho x$n >" + dir + "/n\n" +
		"for script; do :; done\n" + // the last argument
		"case $n in '') ;; x) sh -c \"$script\" | head -n 1 ;; *) sh -c \"$script\" ;; esac\n"
	if err := os.WriteFile(filepath.Join(dir, "lxc"), []byte(client), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	s := Server{Name: "lxd1", patience: clientPatience}
	if got := s.Run(t, "default", "c1", "echo one; echo two"); got != "one\ntwo" {
		t.Errorf("it prints %q", got)
	}
	if got := s.Run(t, "default", "c1", "true"); got != "" {
		t.Errorf("it prints %q", got)
	}
	if n, err := os.ReadFile(filepath.Join(dir, "n")); err != nil || strings.TrimSpace(string(n)) != "xxxx" {
		t.Errorf("it was asked %q, error %v: nothing was lost", n, err)
	}
}
