package ctl

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	"github.com/vmhost-project/vmhost/pkg/backoff"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/ctl/internal/display"
)

const vmHostAddLong = `Adds a host and waits until it has been read. Nothing on it is changed.

ADDRESS is one of
  qemu:///system                       libvirt on the rack's own machine
  qemu+unix://SOCKET/system            libvirt, a socket that its rack names
  qemu+ssh://USER@HOST[:PORT]/system   libvirt by SSH
  qemu+tls://HOST[:PORT]/system        libvirt by TLS
  https://HOST[:PORT]                  LXD; with --lxd, HOST[:PORT] will do
  lxd+unix://                          LXD on the rack's own machine
  lxd+unix://SOCKET                    LXD, a socket that its rack names

For SSH and LXD the host's key is shown once and must be confirmed: on a
terminal by typing yes, elsewhere by --host-key. From then on no other key is
accepted. An LXD trust token says which key it is.

An LXD server must trust the client certificate that is made for the host: by a
trust token or its trust password, which are used once and then forgotten, or by
` + "`lxc config trust add`" + `; what to type is shown when it does not.`

const vmHostAddExample = `  vmhostctl vm-host add h1 qemu:///system
  vmhostctl vm-host add h2 qemu+ssh://root@h2.example/system \
      --ssh-key ~/.ssh/id_ed25519 --zone a --tag ssd
  vmhostctl vm-host add h3 qemu+tls://h3.example/system \
      --tls-cert c.pem --tls-key k.pem --tls-ca ca.pem
  vmhostctl vm-host add l1 https://l1.example --trust-token FILE --project lab`

func (a *app) vmHostAdd() *cobra.Command {
	var f changeFlags
	var spec hostFlags
	c := &cobra.Command{
		Use: "add NAME ADDRESS", Short: "Add a host", Long: vmHostAddLong, Example: vmHostAddExample,
		Args: takes(2), ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(c *cobra.Command, args []string) error {
			ctx, api, err := a.connect(c.Context())
			if err != nil {
				return err
			}
			what := "add VM host " + args[0]
			host := &vmhostv1.VmHost{
				Address: args[1], Type: spec.typeOf(args[1]), Project: spec.project, ClusterMember: spec.member, ClusterGroup: spec.group,
			}
			if _, err := spec.apply(ctx, a, c, host); err != nil {
				return err
			}
			if err := a.ensureHostKey(ctx, api, host, spec.acceptHostKey, what); err != nil {
				return err
			}
			added, err := change(ctx, api.vmHosts.CreateVmHost, &vmhostv1.CreateVmHostRequest{
				VmHostId: args[0], VmHost: host, RequestId: f.id(), ValidateOnly: f.dryRun,
			})
			if err != nil {
				return fail(err, "%s", what)
			}
			if f.dryRun || f.async {
				return a.changedHost(added, &f)
			}
			seen, verdict := a.awaitHost(ctx, api, added, f.wait)
			if err := a.changedHost(seen, &f); err != nil {
				return err
			}
			return verdict
		},
	}
	spec.register(a, c)
	spec.registerLXD(c)
	f.registerWait(c)
	return c
}

const (
	// settleTime is how long a host that was just added may look as if no rack
	// had it: assigning takes a moment.
	settleTime = 5 * time.Second
	// readTime is how long a first reading may take without --wait.
	readTime = 2 * time.Minute
	// lookTime is between two looks.
	lookTime = 300 * time.Millisecond
)

// awaitHost looks at a host until it is ready or has failed, and gives it as
// last seen. The error says why it is not ready; it stays added all the same.
func (a *app) awaitHost(ctx context.Context, api *region, h *vmhostv1.VmHost, limit time.Duration) (*vmhostv1.VmHost, error) {
	line := a.progress()
	defer line.clear()
	if limit == 0 {
		limit = readTime
	}
	began, name := a.now(), display.ID(h.GetName())
	for {
		waited := a.now().Sub(began)
		if h.GetState() == vmhostv1.VmHostState_VM_HOST_STATE_READY {
			return h, nil
		}
		if reason, failed := hostFailure(h, waited); failed {
			return h, notReady(h, reason, a.now())
		}
		if waited > limit {
			e := apierror.New(codes.DeadlineExceeded, vmhostv1.ErrorReason_ERROR_REASON_UNSPECIFIED,
				"it was added and is %s after %s", hostState(h), display.Span(waited)).
				WithHint("see how it goes on: `vmhostctl vm-host get %s`", name)
			return h, &failure{what: "stopped waiting for VM host " + name + " to be ready", err: e, code: exitStillRunning}
		}
		line.write("reading VM host " + name + ": " + hostState(h))
		if err := backoff.Wait(ctx, lookTime); err != nil {
			return h, err
		}
		now, err := call(ctx, api.vmHosts.GetVmHost, &vmhostv1.GetVmHostRequest{Name: h.GetName()})
		if err != nil && !repeatable(err) {
			return h, fail(err, "see whether VM host %s is ready", name)
		}
		if err == nil {
			h = now
		}
	}
}

// hostFailure says whether a host will not become ready without an operator.
func hostFailure(h *vmhostv1.VmHost, waited time.Duration) (vmhostv1.ErrorReason, bool) {
	switch h.GetState() {
	case vmhostv1.VmHostState_VM_HOST_STATE_UNREACHABLE:
		return vmhostv1.ErrorReason_HOST_UNREACHABLE, true
	case vmhostv1.VmHostState_VM_HOST_STATE_AUTH_FAILED:
		return vmhostv1.ErrorReason_HOST_AUTH_FAILED, true
	case vmhostv1.VmHostState_VM_HOST_STATE_HOST_KEY_CHANGED:
		return vmhostv1.ErrorReason_HOST_KEY_CHANGED, true
	case vmhostv1.VmHostState_VM_HOST_STATE_NO_RACK:
		return vmhostv1.ErrorReason_NO_RACK, waited > settleTime
	default:
		return 0, false
	}
}

func notReady(h *vmhostv1.VmHost, reason vmhostv1.ErrorReason, now time.Time) error {
	name := display.ID(h.GetName())
	e := apierror.New(codes.FailedPrecondition, reason, "it was added and is %s: %s", hostState(h), worstNote(h)).
		WithHint("it is tried again by itself; see `vmhostctl vm-host get %s`, change it with `vmhostctl vm-host update %s …`", name, name)
	for _, c := range h.GetConditions() {
		if c.GetHint() != "" {
			e.Hint = c.GetHint()
			break
		}
	}
	f := &failure{what: fmt.Sprintf("VM host %s is not ready", name), err: e, code: exitFailed}
	if untrusted(h, now) {
		e.Hint = "have the server trust the host's certificate; the second line is for the server, with the file of the first"
		f.commands = trustLines(h)
	}
	return f
}

// untrusted says whether an LXD server refuses the host's certificate for no
// other reason than that it does not trust it.
func untrusted(h *vmhostv1.VmHost, now time.Time) bool {
	ends := h.GetCredentialInfo().GetCertificateExpireTime()
	return h.GetType() == vmhostv1.VmHostType_VM_HOST_TYPE_LXD && h.GetState() == vmhostv1.VmHostState_VM_HOST_STATE_AUTH_FAILED &&
		(!ends.IsValid() || ends.AsTime().After(now))
}

// trustLines are what to type, to have an LXD server trust a host's certificate.
func trustLines(h *vmhostv1.VmHost) []string {
	name := display.ID(h.GetName())
	add := "lxc config trust add " + name + ".crt --name vmhost-" + name
	if p := h.GetProject(); p != "" && p != "default" {
		add += " --restricted --projects " + shellQuote(p)
	}
	return []string{
		"vmhostctl vm-host parameters " + name + " --certificate > " + name + ".crt",
		add,
		"vmhostctl vm-host refresh " + name,
	}
}
