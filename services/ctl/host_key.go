package ctl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"google.golang.org/grpc/codes"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/ctl/internal/display"
)

// ensureHostKey sees to it that a host whose key must be known has one: given,
// accepted as presented, or shown and confirmed by a person.
func (a *app) ensureHostKey(ctx context.Context, api *region, host *vmhostv1.VmHost, accept bool, what string) error {
	if host.GetHostKey() != "" {
		return nil
	}
	if host.GetCredential().GetLxd().GetTrustToken() != "" {
		return nil // it names the key
	}
	address, err := hypervisor.ParseAddressAs(host.GetType(), host.GetAddress())
	if err != nil {
		return fail(apierror.InvalidField("vm_host.address", "%s", err).WithHint("%s", a.helpHintOf("vm-host add")), "%s", what)
	}
	// With a CA the certificate is verified by that.
	verified := address.Transport == hypervisor.TransportTLS && host.GetCredential().GetTls().GetCaPem() != ""
	switch address.Transport {
	case hypervisor.TransportSSH, hypervisor.TransportTLS, hypervisor.TransportHTTPS:
	default:
		return nil
	}
	if verified {
		return nil
	}
	presented, err := a.presentedKey(ctx, api, host, what)
	if err != nil {
		return err
	}
	shown := first(presented.GetFingerprint(), presented.GetHostKey())
	switch {
	case accept:
		fmt.Fprintf(a.stderr, "accepted the key that %s presents: %s\n", display.Clean(host.GetAddress()), display.Clean(shown))
	case a.interactive():
		if err := a.confirmKey(ctx, address, presented, shown); err != nil {
			return err
		}
	default:
		e := apierror.New(codes.FailedPrecondition, vmhostv1.ErrorReason_HOST_KEY_REQUIRED,
			"%s presents the key %s, which nobody has confirmed", host.GetAddress(), shown).
			WithHint("compare the fingerprint with the host's own, then: %s", a.again("--host-key", presented.GetHostKey()))
		return fail(e, "%s", what)
	}
	host.HostKey = presented.GetHostKey()
	return nil
}

// presentedKey has a rack look at the host's key. No credential is sent.
func (a *app) presentedKey(ctx context.Context, api *region, host *vmhostv1.VmHost, what string) (*vmhostv1.CheckVmHostResult, error) {
	f := &changeFlags{}
	op, err := change(ctx, api.vmHosts.CheckVmHost, &vmhostv1.CheckVmHostRequest{
		Address: host.GetAddress(), Type: host.GetType(), Rack: host.GetRack(), Zone: host.GetZone(), RequestId: f.id(),
	})
	if err != nil {
		return nil, fail(err, "%s", what)
	}
	if op, err = a.await(ctx, op, what+": read its host key", 0); err != nil {
		return nil, err
	}
	result := &vmhostv1.CheckVmHostResult{}
	if err := op.GetResponse().UnmarshalTo(result); err != nil {
		return nil, fail(err, "%s: read its host key", what)
	}
	if result.GetHostKey() != "" {
		return result, nil
	}
	e := apierror.New(codes.FailedPrecondition, vmhostv1.ErrorReason_HOST_UNREACHABLE, "the host presented no key")
	for _, item := range result.GetItems() {
		if item.GetStatus() == vmhostv1.CheckStatus_CHECK_STATUS_FAILED {
			e.Message, e.Hint = item.GetCheck()+": "+item.GetMessage(), item.GetHint()
			break
		}
	}
	return nil, fail(e, "%s", what)
}

func (a *app) confirmKey(ctx context.Context, address hypervisor.Address, presented *vmhostv1.CheckVmHostResult, shown string) error {
	kind, _, _ := strings.Cut(presented.GetHostKey(), " ")
	if address.Transport != hypervisor.TransportSSH {
		kind = "certificate"
	}
	fmt.Fprintf(a.stderr, "%s presents a key that is not known yet:\n\n  %s  %s\n\n",
		display.Clean(address.Host), display.Clean(kind), a.errPalette().Bold(display.Clean(shown)))
	if address.Transport == hypervisor.TransportSSH {
		fmt.Fprintf(a.stderr, "Compare it on the host's own console: ssh-keygen -lf /etc/ssh/ssh_host_%s_key.pub\n", keyFile(kind))
	}
	if address.Transport == hypervisor.TransportHTTPS {
		fmt.Fprintln(a.stderr, "Compare it on the server: lxc info | grep certificate_fingerprint")
	}
	typed, err := a.ask(ctx, "Type yes to trust it from now on: ")
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if typed != "yes" {
		fmt.Fprintln(a.stderr, "the key was not confirmed; nothing was done")
		return quietError{exitUsage}
	}
	return nil
}

// keyFile is the middle of the name that sshd gives the file of such a key.
func keyFile(kind string) string {
	switch {
	case strings.HasPrefix(kind, "ecdsa"):
		return "ecdsa"
	case strings.Contains(kind, "rsa"):
		return "rsa"
	default:
		return "ed25519"
	}
}

// again is this very command with one more flag, to type.
func (a *app) again(flag, value string) string {
	words := []string{"vmhostctl"}
	for _, arg := range a.args {
		words = append(words, shellQuote(arg))
	}
	return strings.Join(words, " ") + " " + flag + " '" + strings.ReplaceAll(value, "'", `'\''`) + "'"
}
