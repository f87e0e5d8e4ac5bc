package child

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/pprof"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
)

// Word is the first argument of a child; its role is the second.
const Word = "child"

// role sets a child up. What it answers is told to who started it; stop ends it.
type role func(ctx context.Context, config []byte, questions *http.ServeMux) (up any, stop func(), err error)

// roles are what a child can be.
var roles = map[string]role{ //nolint:gochecknoglobals // a constant that Go has no syntax for
	RoleEtcd: runEtcd, RoleRegion: runRegion, RoleRacks: runRacks, RoleEcho: runEcho, RoleEchoClients: runEchoClients, RoleWatchers: runWatchers,
}

// announcement is the line that a child prints when it is up.
type announcement struct {
	URL string
	Up  any
}

// Main is the main of a child.
func Main(args []string) error {
	if len(args) != 1 || roles[args[0]] == nil {
		return fmt.Errorf("no role %q", args)
	}
	input := bufio.NewReader(os.Stdin)
	config, err := input.ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("read the configuration: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("listen for questions: %w", err)
	}
	questions := http.NewServeMux()
	questions.HandleFunc("/memory", func(w http.ResponseWriter, _ *http.Request) { answer(w, memory(), nil) })
	questions.HandleFunc("/debug/pprof/", pprof.Index)
	questions.HandleFunc("/debug/pprof/profile", pprof.Profile)
	up, stop, err := roles[args[0]](ctx, config, questions)
	if err != nil {
		return err
	}
	go func() { _ = http.Serve(listener, questions) }() //nolint:gosec // on loopback, for as long as the process
	line, err := json.Marshal(announcement{URL: "http://" + listener.Addr().String(), Up: up})
	if err != nil {
		return fmt.Errorf("say what there is: %w", err)
	}
	if _, err := os.Stdout.Write(append(line, '\n')); err != nil {
		stop()
		return fmt.Errorf("say what there is: %w", err)
	}
	_, _ = io.Copy(io.Discard, input) // until who started it closes it, or is gone
	stop()
	return nil
}

func answer(w http.ResponseWriter, value any, err error) {
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	text, err := json.Marshal(value)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	_, _ = w.Write(text) // who asked may be gone
}

// Memory is what a process holds, bytes.
type Memory struct {
	// Resident is all that the process has in memory, but for files.
	Resident int64
	// Heap are objects that live, and Stacks the stacks of goroutines.
	Heap, Stacks int64
	// Goroutines is how many there are.
	Goroutines int
}

// memory collects garbage first, and gives back what is free.
func memory() Memory {
	debug.FreeOSMemory()
	debug.FreeOSMemory() // what finalizers and pools had hold of
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	return Memory{Resident: resident(), Heap: int64(s.HeapAlloc), Stacks: int64(s.StackInuse), Goroutines: runtime.NumGoroutine()}
}

func resident() int64 {
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "RssAnon:"); ok {
			kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			if err != nil {
				return 0
			}
			return kib << 10
		}
	}
	return 0
}
