package lxd

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	"github.com/vmhost-project/vmhost/pkg/hypervisor/lxdtest"
)

func TestP5LookingMakesNoProject(t *testing.T) {
	s := lxdtest.Devhost(t, "lxd1")
	o := NewOpener(Config{LocalSockets: map[string]string{"here": s.Socket}})
	target := hypervisor.Target{Name: "vmHosts/look", Address: mustParse(t, "lxd+unix://here"), Project: "vmhost-not-there", LookOnly: true}
	if d, err := o.Open(timeout(t, 20*time.Second), target); !errors.Is(err, hypervisor.ErrRefused) {
		if err == nil {
			_ = d.Close()
		}
		t.Fatalf("opened with %v; want it refused", err)
	}
	if projects := s.Lxc(t, "project", "list", "--format", "csv"); strings.Contains(projects, "vmhost-not-there") {
		t.Errorf("the project was made: %s", projects)
	}
	names, err := overSocket(t, s, "").Projects(timeout(t, 20*time.Second))
	if err != nil || !slices.Contains(names, "default") {
		t.Errorf("projects %v, %v", names, err)
	}
}
