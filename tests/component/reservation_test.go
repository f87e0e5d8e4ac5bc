package component

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vmhost-project/vmhost/pkg/hypervisor/fake"
	"github.com/vmhost-project/vmhost/pkg/pki"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/ctl"
	"github.com/vmhost-project/vmhost/services/gateway"
	"github.com/vmhost-project/vmhost/services/rack/racktest"
	"github.com/vmhost-project/vmhost/services/region/regiontest"
)

// web is a gateway before a region: it answers with the status and the body.
func web(t *testing.T, r *regiontest.Region) func(method, path, body string) (int, map[string]any) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ca, err := pki.NewAuthority("test")
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := ca.ServerCertificate([]string{"127.0.0.1"}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	cfg := gateway.Default()
	cfg.Region.Endpoints, cfg.Region.CASPKI, cfg.Ops.Listen = []string{r.Endpoint}, r.CASPKI(), ""
	g, err := gateway.New(t.Context(), cfg, gateway.Deps{
		Listener: listener, Log: slog.New(slog.DiscardHandler),
		Certificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &certificate, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- g.Run(ctx) }()
	pinned := pki.PinnedConfig(pki.SPKIHash(ca.Certificate()))
	pinned.ServerName = "127.0.0.1" // which a client sends for no address
	transport := &http.Transport{TLSClientConfig: pinned}
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the gateway ended with: %v", err)
		}
	})
	return func(method, path, body string) (int, map[string]any) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, "https://"+listener.Addr().String()+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+r.AdminToken)
		resp, err := (&http.Client{Transport: transport}).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		data, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		out := map[string]any{}
		if err := json.Unmarshal(data, &out); err != nil {
			t.Fatalf("%s %s: %s: %v", method, path, data, err)
		}
		return resp.StatusCode, out
	}
}

// terminal runs vmhostctl on a region: it answers with what it ends with and says.
func terminal(t *testing.T, r *regiontest.Region) func(args ...string) (int, string) {
	t.Helper()
	dir := t.TempDir()
	ca := filepath.Join(dir, "ca.pem")
	if err := os.WriteFile(ca, r.CACertPEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	env := []string{
		"HOME=" + dir, "VMHOSTCTL_CONFIG=" + filepath.Join(dir, "config"), "VMHOSTCTL_ENDPOINT=" + r.Endpoint,
		"VMHOSTCTL_TOKEN=" + r.AdminToken, "VMHOSTCTL_CA_FILE=" + ca,
	}
	return func(args ...string) (int, string) {
		t.Helper()
		var stdout, stderr bytes.Buffer
		code := ctl.Run(t.Context(), args, env, strings.NewReader(""), &stdout, &stderr)
		if stderr.Len() > 0 {
			t.Logf("vmhostctl %s: %s", strings.Join(args, " "), stderr.String())
		}
		return code, strings.TrimSpace(stdout.String()) + stderr.String()
	}
}

// A provisioning system plans over JSON, people compose and look at the terminal,
// and what was not used comes back by itself.
func TestRoomIsReservedComposedAgainstAndGivenBackOverJSONAndTheTerminal(t *testing.T) {
	r := start(t, nil)
	fleet := fake.NewFleet(fake.HostSpec{Name: "h1", Cores: 4})
	racktest.Start(t, racktest.Options{JoinToken: r.Join("r1"), Fleet: fleet})
	h := fleet.Host("h1")
	addHost(t, r.Admin, h, "r1")
	call, vmhostctl := web(t, r), terminal(t, r)

	status, held := call("POST", "/v1/reservations:reserve", `{"machine": {"cores": 1, "memoryMib": "64", "disks": [{"sizeBytes": "1048576"}]}, "count": 3, "ttl": "3600s"}`)
	name, _ := held["name"].(string)
	if status != http.StatusOK || !strings.HasPrefix(name, "reservations/") || held["state"] != "RESERVATION_STATE_ACTIVE" {
		t.Fatalf("reserve: %d %v", status, held)
	}
	if status, refused := call("POST", "/v1/machines:compose", `{"cores": 2}`); status == http.StatusOK || !strings.Contains(fmt.Sprint(refused), "NO_CAPACITY") {
		t.Errorf("compose of what is held: %d %v", status, refused)
	}
	if code, out := vmhostctl("vm-host", "get", "h1"); code != 0 || !strings.Contains(out, "0 of ours, 3 held by reservations") {
		t.Errorf("vm-host get: %d\n%s", code, out)
	}
	// One over each way.
	if code, out := vmhostctl("machine", "compose", "web-1", "--reservation", name); code != 0 || !strings.Contains(out, "web-1") {
		t.Errorf("compose at the terminal: %d\n%s", code, out)
	}
	status, op := call("POST", "/v1/machines:compose", `{"hostname": "web-2", "reservation": "`+name+`"}`)
	if status != http.StatusOK {
		t.Fatalf("compose over JSON: %d %v", status, op)
	}
	opName, _ := op["name"].(string)
	succeed(t, r.Admin, opName)
	var names []string
	list, err := r.Admin.Machines.ListMachines(t.Context(), &vmhostv1.ListMachinesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range list.GetMachines() {
		names = append(names, m.GetName())
	}
	if len(names) != 2 {
		t.Errorf("there are %d machines", len(names))
	}
	if status, wrong := call("POST", "/v1/machines:compose", `{"cores": 2, "reservation": "`+name+`"}`); status != http.StatusBadRequest || !strings.Contains(fmt.Sprint(wrong), "cores (1 reserved, 2 asked for)") {
		t.Errorf("compose of something else: %d %v", status, wrong)
	}
	id := strings.TrimPrefix(name, "reservations/")
	if code, out := vmhostctl("reservation", "list"); code != 0 || !strings.Contains(out, id) || !strings.Contains(out, "1/3") {
		t.Errorf("list: %d\n%s", code, out)
	}

	// Its time is over: a region gives the rest back by itself.
	if status, out := call("PATCH", "/v1/"+name, `{"ttl": "1s"}`); status != http.StatusOK {
		t.Fatalf("shorten: %d %v", status, out)
	}
	await(t, "the place to be given back", func(ctx context.Context) error {
		host, err := r.Admin.VmHosts.GetVmHost(ctx, &vmhostv1.GetVmHostRequest{Name: "vmHosts/h1"})
		if err != nil {
			return err
		}
		if u := host.GetUsage(); u.GetHeldMachines() != 0 || u.GetCores().GetCommitted() != 2 {
			return fmt.Errorf("held %d, %d cores are committed", u.GetHeldMachines(), u.GetCores().GetCommitted())
		}
		return nil
	})
	agree(t, r.Admin, h, names)
	if code, out := vmhostctl("reservation", "get", id); code != 0 || !strings.Contains(out, "EXPIRED") {
		t.Errorf("get: %d\n%s", code, out)
	}
	if code, out := vmhostctl("machine", "compose", "--reservation", id); code != 7 || !strings.Contains(out, "expired at") {
		t.Errorf("compose afterwards: %d\n%s", code, out)
	}
	happened(t, r.Admin, "reservation.expired", name, 1)

	// Given back by hand.
	code, out := vmhostctl("reservation", "create", "--cores", "2", "-o", "name")
	if code != 0 {
		t.Fatalf("create: %d %s", code, out)
	}
	if status, refused := call("DELETE", "/v1/vmHosts/h1", ""); status != http.StatusBadRequest || !strings.Contains(fmt.Sprint(refused), "IN_USE") {
		t.Errorf("delete of the host: %d %v", status, refused)
	}
	if status, gone := call("DELETE", "/v1/"+out, ""); status != http.StatusOK {
		t.Errorf("delete: %d %v", status, gone)
	}
	if code, out := vmhostctl("reservation", "get", out); code != 6 {
		t.Errorf("get afterwards: %d\n%s", code, out)
	}
}
