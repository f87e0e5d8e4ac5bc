package executor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// What stands between an operator and a working host, in the order it is tried.
const (
	checkReach      = "reach"
	checkHostKey    = "host-key"
	checkLogin      = "login"
	checkHypervisor = "hypervisor"
	checkKVM        = "kvm"
	checkStorage    = "storage-pool"
	checkNetwork    = "network"
)

func checkOrder() []string {
	return []string{checkReach, checkHostKey, checkLogin, checkHypervisor, checkKVM, checkStorage, checkNetwork}
}

const (
	checkOK      = vmhostv1.CheckStatus_CHECK_STATUS_OK
	checkWarning = vmhostv1.CheckStatus_CHECK_STATUS_WARNING
	checkFailed  = vmhostv1.CheckStatus_CHECK_STATUS_FAILED
	checkSkipped = vmhostv1.CheckStatus_CHECK_STATUS_SKIPPED
)

// checklist fills in a result item by item.
type checklist struct{ out *vmhostv1.CheckVmHostResult }

func (c checklist) add(check string, status vmhostv1.CheckStatus, message, hint string) {
	c.out.Items = append(c.out.Items, &vmhostv1.CheckItem{Check: check, Status: status, Message: message, Hint: hint})
}

// fail adds a failed item.
func (c checklist) fail(check string, err error, hint string) {
	if e, ok := errors.AsType[*hypervisor.Error](err); ok && e.Hint != "" {
		hint = e.Hint
	}
	c.add(check, checkFailed, err.Error(), hint)
}

// skip adds every item that has not been added yet, and puts all in order.
func (c checklist) skip(why string) *vmhostv1.CheckVmHostResult {
	done := c.out.GetItems()
	c.out.Items = nil
	for _, check := range checkOrder() {
		i := slices.IndexFunc(done, func(i *vmhostv1.CheckItem) bool { return i.GetCheck() == check })
		if i < 0 {
			c.add(check, checkSkipped, why, "")
		} else {
			c.out.Items = append(c.out.Items, done[i])
		}
	}
	return c.out
}

// check tries an address. What is wrong with it is in the result, never an error.
func (e *Executor) check(ctx context.Context, check *rackv1.CheckHost, operation string) *vmhostv1.CheckVmHostResult {
	c := checklist{&vmhostv1.CheckVmHostResult{Rack: e.cfg.Rack()}}
	opener, target, err := e.target(check, "check/"+operation)
	if errors.Is(err, hypervisor.ErrAuth) {
		c.fail(checkLogin, err, "")
		return c.skip("the credential cannot be used")
	}
	if err != nil {
		c.fail(checkReach, err, "")
		return c.skip("the address cannot be used")
	}
	key, fingerprint, err := opener.HostKey(ctx, target.Address)
	c.out.HostKey, c.out.Fingerprint = key, fingerprint
	switch {
	case err != nil:
		c.fail(checkReach, err, "see that the host is on, that the address and port are right, and that a firewall lets this rack through")
		return c.skip("the address is not reached")
	case key == "": // whether it is reached shows when it is opened
	case target.HostKey == "" && !verifiedByCA(target):
		c.add(checkReach, checkOK, "something answers at "+target.Address.String(), "")
		c.add(checkHostKey, checkWarning, "the host presents "+fingerprint, "compare it with the host's own, for example `ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub`, and give it as host key")
		return c.skip("the host key is not confirmed, so that nothing is sent to the host")
	default:
		c.add(checkReach, checkOK, "something answers at "+target.Address.String(), "")
	}
	driver, err := opener.Open(ctx, target)
	if err != nil {
		return c.notOpened(target, key, err)
	}
	defer func() { _ = driver.Close() }()
	if key == "" {
		c.add(checkReach, checkOK, "something answers at "+target.Address.String(), "")
		c.add(checkHostKey, checkOK, "an address of this kind has no host key", "")
	} else {
		c.add(checkHostKey, checkOK, "the host presents the expected key "+fingerprint, "")
	}
	c.add(checkLogin, checkOK, "logged in", "")
	observation, err := driver.Probe(ctx)
	if err != nil {
		c.fail(checkHypervisor, err, "see that the hypervisor runs and that the user may use it")
		return c.skip("the hypervisor does not answer")
	}
	c.out.Observation = observation
	c.observed(observation)
	return c.out
}

func verifiedByCA(t hypervisor.Target) bool {
	return t.Address.Transport == hypervisor.TransportTLS && t.Credential.GetTls().GetCaPem() != ""
}

// notOpened says which item a failure to connect belongs to.
func (c checklist) notOpened(target hypervisor.Target, key string, err error) *vmhostv1.CheckVmHostResult {
	switch {
	case errors.Is(err, hypervisor.ErrHostKey):
		if e, ok := errors.AsType[*hypervisor.Error](err); ok && e.PresentedHostKey != "" {
			c.out.HostKey = e.PresentedHostKey
		}
		c.fail(checkHostKey, err, "find out why the key is another one before it is confirmed")
		return c.skip("the host key is not the expected one")
	case key == "" && !errors.Is(err, hypervisor.ErrAuth):
		c.fail(checkReach, err, "see that the hypervisor runs and that this rack may use "+target.Address.String())
		return c.skip("the address is not reached")
	}
	if key == "" {
		c.add(checkReach, checkOK, "something answers at "+target.Address.String(), "")
		c.add(checkHostKey, checkOK, "an address of this kind has no host key", "")
	} else {
		c.add(checkHostKey, checkOK, "the host presents the expected key", "")
	}
	if errors.Is(err, hypervisor.ErrAuth) {
		c.fail(checkLogin, err, "see that the host knows the key or password, and that the user may log in")
		return c.skip("the credential was refused")
	}
	c.add(checkLogin, checkSkipped, "not known, since the hypervisor was not reached", "")
	c.fail(checkHypervisor, err, "see that the hypervisor runs and that the user may use it")
	return c.skip("the hypervisor is not reached")
}

// observed judges what the hypervisor has.
func (c checklist) observed(o *vmhostv1.VmHostObservation) {
	c.add(checkHypervisor, checkOK, fmt.Sprintf("%s, %d cores, %d MiB", o.GetHypervisorVersion(), o.GetCores(), o.GetMemoryMib()), "")
	if o.GetKvm() {
		c.add(checkKVM, checkOK, "guests run by KVM", "")
	} else {
		c.add(checkKVM, checkWarning, "guests run by emulation, many times slower", "turn on virtualization in the firmware, and load the modules kvm_intel or kvm_amd")
	}
	var active, inactive []string
	for _, p := range o.GetStoragePools() {
		if p.GetActive() {
			active = append(active, p.GetName())
		} else {
			inactive = append(inactive, p.GetName())
		}
	}
	switch {
	case len(active) > 0:
		c.add(checkStorage, checkOK, "storage pools: "+strings.Join(active, ", "), "")
	case len(inactive) > 0:
		c.add(checkStorage, checkFailed, "no storage pool is active; there are: "+strings.Join(inactive, ", "), "start one on the host: `virsh pool-start "+inactive[0]+"`")
	default:
		c.add(checkStorage, checkFailed, "the host has no storage pool", "make one on the host: `virsh pool-define-as default dir --target /var/lib/libvirt/images && virsh pool-start default && virsh pool-autostart default`")
	}
	active, inactive = nil, nil
	for _, n := range o.GetNetworks() {
		if n.GetActive() {
			active = append(active, n.GetName())
		} else {
			inactive = append(inactive, n.GetName())
		}
	}
	switch {
	case len(active) > 0:
		c.add(checkNetwork, checkOK, "networks: "+strings.Join(active, ", "), "")
	case len(inactive) > 0:
		c.add(checkNetwork, checkWarning, "no network is active; there are: "+strings.Join(inactive, ", "), "start one on the host: `virsh net-start "+inactive[0]+"`")
	default:
		c.add(checkNetwork, checkWarning, "the host has no network that machines can be attached to", "make a network or a bridge on the host")
	}
}
