package lxd

import (
	"encoding/json"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	lxdapi "github.com/canonical/lxd/shared/api"
	"github.com/gorilla/websocket"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// fakeLXD answers just enough of LXD's API to be connected to, and can fail and
// hang. What it does is fixed; behaviour is tested against the real one.
type fakeLXD struct {
	path string

	mu sync.Mutex
	// answers are by method and path without its parameters; a function decides
	// itself.
	answers map[string]any
	// muted paths are not answered.
	muted  map[string]bool
	events []*websocket.Conn
	asked  []string
}

// refusal is an answer that is an error.
type refusal struct {
	status int
	text   string
}

// running is an answer that starts an operation.
type running struct{ id string }

const fakeUUID = "0b1f5cf4-54ad-4ee6-a2b8-8c3a9f5e1d11"

func newFakeLXD(t testing.TB) *fakeLXD {
	t.Helper()
	dir, err := os.MkdirTemp("", "vmhost")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	f := &fakeLXD{path: filepath.Join(dir, "sock"), muted: map[string]bool{}, answers: map[string]any{
		"GET /1.0": lxdapi.Server{
			ServerUntrusted: lxdapi.ServerUntrusted{Auth: "trusted", APIExtensions: []string{"instances", "projects", "custom_block_volumes"}},
			Environment:     lxdapi.ServerEnvironment{Driver: "lxc | qemu", DriverVersion: "5.0.2 | 7.2", ServerVersion: "5.0.2", ServerName: "fake", Architectures: []string{"x86_64"}},
		},
		"GET /1.0/projects/default":    lxdapi.Project{Name: "default"},
		"GET /1.0/instances":           []lxdapi.Instance{},
		"GET /1.0/resources":           lxdapi.Resources{},
		"GET /1.0/storage-pools":       []lxdapi.StoragePool{{Name: "default", Driver: "lvm", Status: "Created"}},
		"GET /1.0/networks":            []lxdapi.Network{},
		"GET /1.0/profiles":            []string{},
		"GET /1.0/images":              []lxdapi.Image{{Fingerprint: strings.Repeat("a", 64), Type: "container", Aliases: []lxdapi.ImageAlias{{Name: "tiny"}}}},
		"GET /1.0/operations":          map[string][]lxdapi.Operation{},
		"POST /1.0/instances":          running{"op"},
		"GET /1.0/operations/op":       lxdapi.Operation{ID: "op", StatusCode: lxdapi.Running},
		"DELETE /1.0/instances/broken": running{"op"},
		"GET /1.0/storage-pools/default/resources": lxdapi.ResourcesStoragePool{
			Space: lxdapi.ResourcesStoragePoolSpace{Total: 1 << 30, Used: 1 << 20},
		},
	}}
	l, err := net.Listen("unix", f.path)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: f, ReadHeaderTimeout: time.Minute}
	var wg sync.WaitGroup
	wg.Go(func() { _ = server.Serve(l) })
	t.Cleanup(func() {
		_ = server.Close()
		f.drop()
		wg.Wait()
	})
	return f
}

func (f *fakeLXD) set(key string, answer any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.answers[key] = answer
}

func (f *fakeLXD) mute(path string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.muted[path] = true
}

// drop ends the events.
func (f *fakeLXD) drop() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, ws := range f.events {
		_ = ws.Close()
	}
	f.events = nil
}

// tell sends an event to all that listen.
func (f *fakeLXD) tell(t testing.TB, kind string, metadata any) {
	t.Helper()
	b, err := json.Marshal(metadata)
	if err != nil {
		t.Fatal(err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	// Those of drivers that are closed are still in the list.
	f.events = slices.DeleteFunc(f.events, func(ws *websocket.Conn) bool {
		return ws.WriteJSON(lxdapi.Event{Type: kind, Metadata: b}) != nil
	})
	if len(f.events) == 0 {
		t.Error("nobody listens")
	}
}

func (f *fakeLXD) count(key string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for _, a := range f.asked {
		if a == key {
			n++
		}
	}
	return n
}

// ServeHTTP is the API.
func (f *fakeLXD) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	key := r.Method + " " + r.URL.Path
	f.mu.Lock()
	f.asked = append(f.asked, key)
	answer, known := f.answers[key]
	muted := f.muted[r.URL.Path]
	f.mu.Unlock()
	switch {
	case muted:
		<-r.Context().Done()
		return
	case r.URL.Path == "/1.0/events" && !known:
		f.listen(w, r)
		return
	case !known:
		answer = refusal{http.StatusNotFound, "not found: " + key}
	}
	out := lxdapi.ResponseRaw{Type: lxdapi.SyncResponse, Status: "Success", StatusCode: 200, Metadata: answer}
	switch a := answer.(type) {
	case refusal:
		w.WriteHeader(a.status)
		out = lxdapi.ResponseRaw{Type: lxdapi.ErrorResponse, Code: a.status, Error: a.text}
	case running:
		w.WriteHeader(http.StatusAccepted)
		out = lxdapi.ResponseRaw{Type: lxdapi.AsyncResponse, Operation: "/1.0/operations/" + a.id, Metadata: lxdapi.Operation{ID: a.id, StatusCode: lxdapi.Running}}
	case string:
		_, _ = w.Write([]byte(a))
		return
	}
	if err := json.NewEncoder(w).Encode(out); err != nil {
		panic(err)
	}
}

func (f *fakeLXD) listen(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock() // whoever has its answer is in events, and is not missed by a drop
	ws, err := (&websocket.Upgrader{}).Upgrade(w, r, nil)
	if err == nil {
		f.events = append(f.events, ws)
	}
	f.mu.Unlock()
	if err != nil {
		return
	}
	for {
		// Reading is what answers pings.
		if _, _, err := ws.ReadMessage(); err != nil {
			return
		}
	}
}

func (f *fakeLXD) open(t testing.TB, cfg Config) *Driver {
	t.Helper()
	cfg.LocalSockets = map[string]string{"fake": f.path}
	return openTarget(t, NewOpener(cfg), hypervisor.Target{Name: "vmHosts/fake", Address: mustParse(t, "lxd+unix://fake")})
}

// fakeInstance is one that has nothing wrong with it.
func fakeInstance(name, id string, config map[string]string) lxdapi.Instance {
	all := map[string]string{volatileUUID: id, "limits.cpu": "1", "limits.memory": "64MiB"}
	maps.Copy(all, config)
	return lxdapi.Instance{Name: name, Project: "default", Type: typeContainer, Architecture: "x86_64", Status: "Stopped", StatusCode: lxdapi.Stopped, Config: all}
}

func fakeContainer() *rackv1.CreateMachine {
	return &rackv1.CreateMachine{Machine: &vmhostv1.Machine{
		Uid: fakeUUID, HypervisorName: "m1", Architecture: "x86_64", Cores: 1, MemoryMib: 64, Type: vmhostv1.MachineType_MACHINE_TYPE_CONTAINER, Image: "tiny",
		Disks: []*vmhostv1.MachineDisk{{StoragePool: "default", Volume: volumePrefix(fakeUUID) + "0", SizeBytes: 1 << 20}},
	}}
}
