package clictx_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vmhost-project/vmhost/services/ctl/clictx"
)

func TestAWrittenContextIsReadBackAndOnlyItsOwnerCanReadIt(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a", "b", "config.yaml")
	one := clictx.Context{Name: "one", Endpoint: "127.0.0.1:7443", TokenFile: "/t", CAPin: "sha256:abc"}
	two := clictx.Context{Name: "two", Endpoint: "h:1", Token: "vmh_x", CAFile: "/ca"}
	for _, c := range []clictx.Context{one, two} {
		if err := clictx.WriteContext(path, c, false); err != nil {
			t.Fatal(err)
		}
	}
	got, err := clictx.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	want := &clictx.File{Current: "one", Contexts: []clictx.Context{one, two}}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("file (-want +got):\n%s", d)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("mode is %v, want 0600", info.Mode().Perm())
	}
	left, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(left) != 1 {
		t.Errorf("folder holds %v (%v), want the file alone", left, err)
	}
}

func TestWritingAContextAgainReplacesIt(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.yaml")
	for _, endpoint := range []string{"h:1", "h:2"} {
		if err := clictx.WriteContext(path, clictx.Context{Name: "x", Endpoint: endpoint}, true); err != nil {
			t.Fatal(err)
		}
	}
	f, err := clictx.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if len(f.Contexts) != 1 || f.Contexts[0].Endpoint != "h:2" || f.Current != "x" {
		t.Errorf("got %+v", f)
	}
}

func TestDeletingTheCurrentContextLeavesNoneCurrent(t *testing.T) {
	f := &clictx.File{Current: "a", Contexts: []clictx.Context{{Name: "a"}, {Name: "b"}}}
	if err := f.Delete("a"); err != nil {
		t.Fatal(err)
	}
	if f.Current != "" || len(f.Contexts) != 1 {
		t.Errorf("got %+v", f)
	}
	for _, err := range []error{f.Delete("a"), f.Use("a")} {
		if !errors.Is(err, clictx.ErrNoContext) {
			t.Errorf("got %v, want ErrNoContext", err)
		}
	}
}

func TestBadFilesAndContextsAreRefused(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "config.yaml")
	if err := os.WriteFile(path, []byte("contexts: []\nnope: x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := clictx.Load(path); err == nil {
		t.Error("an unknown key was accepted")
	}
	if err := clictx.WriteContext(path, clictx.Context{Name: "x", Endpoint: "h:1"}, true); err == nil {
		t.Error("a file that cannot be read was overwritten")
	}
	for _, c := range []clictx.Context{{Name: "", Endpoint: "h:1"}, {Name: "a b", Endpoint: "h:1"}, {Name: "ok"}} {
		if err := clictx.WriteContext(filepath.Join(dir, "other.yaml"), c, true); err == nil {
			t.Errorf("%+v was accepted", c)
		}
	}
}

func TestTheFileIsWhereTheSystemKeepsConfiguration(t *testing.T) {
	tests := []struct {
		name string
		env  map[string]string
		want string
	}{
		{"xdg", map[string]string{"XDG_CONFIG_HOME": "/x", "HOME": "/h"}, "/x/vmhostctl/config.yaml"},
		{"home", map[string]string{"HOME": "/h"}, "/h/.config/vmhostctl/config.yaml"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := clictx.DefaultPath(func(k string) string { return tt.env[k] })
			if err != nil || got != tt.want {
				t.Errorf("got %q, %v, want %q", got, err, tt.want)
			}
		})
	}
}
