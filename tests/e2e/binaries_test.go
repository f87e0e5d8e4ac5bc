package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

// built are the binaries of this test run. They carry the race detector when the
// tests do.
type built struct {
	once sync.Once
	dir  string
	err  error
}

var binaries built //nolint:gochecknoglobals // built once for all tests

func TestMain(m *testing.M) {
	code := m.Run()
	if binaries.dir != "" {
		_ = os.RemoveAll(binaries.dir)
	}
	os.Exit(code) //nolint:forbidigo // what TestMain is for
}

// binary is the path of a built program.
func binary(t *testing.T, name string) string {
	t.Helper()
	binaries.once.Do(func() { binaries.err = binaries.build() })
	if binaries.err != nil {
		t.Fatal(binaries.err)
	}
	return filepath.Join(binaries.dir, name)
}

func (b *built) build() error {
	dir, err := os.MkdirTemp("", "vmhost-e2e-")
	if err != nil {
		return err
	}
	b.dir = dir
	args := []string{"build", "-o", dir + "/"}
	if raceEnabled {
		args = append(args, "-race")
	}
	args = append(args,
		"github.com/vmhost-project/vmhost/services/standalone/cmd/vmhost",
		"github.com/vmhost-project/vmhost/services/ctl/cmd/vmhostctl")
	if out, err := exec.Command("go", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("build the binaries: %w\n%s", err, out)
	}
	return nil
}
