package executor

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os/user"
	"slices"
	"strings"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// What stands between an operator and a working host, in the order it is tried.
// See CheckItem.check.
const (
	checkReach      = "reach"
	checkHostKey    = "host-key"
	checkLogin      = "login"
	checkGroup      = "group"
	checkTrust      = "trust"
	checkProject    = "project"
	checkHypervisor = "hypervisor"
	checkTypes      = "machine-types"
	checkKVM        = "kvm"
	checkStorage    = "storage-pool"
	checkNetwork    = "network"
	checkUplink     = "uplink"
)

const (
	checkOK      = vmhostv1.CheckStatus_CHECK_STATUS_OK
	checkWarning = vmhostv1.CheckStatus_CHECK_STATUS_WARNING
	checkFailed  = vmhostv1.CheckStatus_CHECK_STATUS_FAILED
	checkSkipped = vmhostv1.CheckStatus_CHECK_STATUS_SKIPPED
)

// checkOrder is what there is to check of an address.
func checkOrder(a hypervisor.Address) []string {
	var way []string
	isLXD := a.Type == vmhostv1.VmHostType_VM_HOST_TYPE_LXD
	switch {
	case a.Transport == hypervisor.TransportUnix:
		way = []string{checkReach, checkGroup}
	case a.Transport == hypervisor.TransportSSH:
		way = []string{checkReach, checkHostKey, checkLogin, checkGroup}
	case isLXD:
		way = []string{checkReach, checkHostKey, checkTrust}
	default:
		way = []string{checkReach, checkHostKey, checkLogin}
	}
	if isLXD {
		way = append(way, checkProject)
	}
	return append(way, checkHypervisor, checkTypes, checkKVM, checkStorage, checkNetwork, checkUplink)
}

// checklist fills in a result item by item.
type checklist struct {
	out     *vmhostv1.CheckVmHostResult
	address hypervisor.Address
	lxd     bool
}

func (c checklist) add(check string, status vmhostv1.CheckStatus, message, hint string) {
	c.out.Items = append(c.out.Items, &vmhostv1.CheckItem{Check: check, Status: status, Message: message, Hint: hint})
}

// ok adds good items.
func (c checklist) ok(message string, checks ...string) {
	for _, check := range checks {
		c.add(check, checkOK, message, "")
	}
}

// fail adds a failed item. The driver's own hint comes first.
func (c checklist) fail(check string, err error, hint string) {
	if e, ok := errors.AsType[*hypervisor.Error](err); ok && e.Hint != "" {
		hint = e.Hint
	}
	c.add(check, checkFailed, err.Error(), hint)
}

// finish adds every item that has not been added yet as skipped, and puts all in
// order. What came before an item that was tried is left out, if it does not
// apply to the address.
func (c checklist) finish(why string) *vmhostv1.CheckVmHostResult {
	done := c.out.GetItems()
	c.out.Items = nil
	order := checkOrder(c.address)
	if c.address.Type == vmhostv1.VmHostType_VM_HOST_TYPE_UNSPECIFIED { // it could not be read
		order = []string{checkReach, checkHypervisor, checkStorage, checkNetwork}
	}
	for _, check := range order {
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
	c := checklist{out: &vmhostv1.CheckVmHostResult{Rack: e.cfg.Rack()}}
	c.address, _ = hypervisor.ParseAddress(check.GetAddress()) // target says what is wrong with it
	c.lxd = c.address.Type == vmhostv1.VmHostType_VM_HOST_TYPE_LXD
	opener, target, err := e.target(check, "check/"+operation)
	if errors.Is(err, hypervisor.ErrAuth) {
		c.fail(c.entry(), err, "")
		return c.finish("the credential cannot be used")
	}
	if err != nil {
		c.fail(checkReach, err, "")
		return c.finish("the address cannot be used")
	}
	target.LookOnly = !check.GetFix()
	key, fingerprint, err := opener.HostKey(ctx, target.Address)
	c.out.HostKey, c.out.Fingerprint = key, fingerprint
	if err != nil {
		c.fail(checkReach, err, "see that the host is on, that the address and port are right, and that a firewall lets this rack through")
		return c.finish("the address is not reached")
	}
	if key != "" && target.HostKey == "" && !verifiedByCA(target) {
		c.answers()
		c.add(checkHostKey, checkWarning, "the host presents "+fingerprint, c.compare())
		return c.finish("the host key is not confirmed, so that nothing is sent to the host")
	}
	driver, err := opener.Open(ctx, target)
	if err != nil {
		return c.notOpened(target, key, err)
	}
	defer func() { _ = driver.Close() }()
	c.entered(key, c.entry())
	if c.lxd {
		c.ok("project "+project(target)+" can be used", checkProject)
		c.projects(ctx, driver)
	}
	c.look(ctx, driver, check.GetFix())
	return c.finish("the hypervisor does not answer")
}

// look judges what the hypervisor has, and with fix has mended what can safely be.
func (c checklist) look(ctx context.Context, driver hypervisor.Driver, fix bool) {
	observation, err := driver.Probe(ctx)
	if err != nil {
		c.fail(checkHypervisor, err, "see that the hypervisor runs and that the user may use it")
		return
	}
	entered := len(c.out.GetItems())
	judged := c.judge(observation)
	var fixed map[string]string
	if fixer, can := driver.(hypervisor.Fixer); fix && can && judged.lacks() {
		fixed, err = fixer.Fix(ctx)
		if again, probeErr := driver.Probe(ctx); probeErr == nil {
			observation = again
			judged = c.judge(observation)
		}
	}
	c.out.Observation = observation
	c.out.Items = append(c.out.Items, judged...)
	for _, check := range slices.Sorted(maps.Keys(fixed)) {
		i := slices.IndexFunc(c.out.GetItems(), func(i *vmhostv1.CheckItem) bool { return i.GetCheck() == check })
		if i < 0 {
			i = entered // what the driver did is told in any case
		}
		c.out.Items[i].Fixed = strings.TrimPrefix(c.out.GetItems()[i].GetFixed()+"; "+fixed[check], "; ")
	}
	if err != nil {
		for _, i := range judged {
			if i.GetStatus() != checkOK && mendable(i.GetCheck()) {
				i.Message += "; it could not be mended: " + err.Error()
			}
		}
	}
}

// projects lists what projects the server shows to us.
func (c checklist) projects(ctx context.Context, driver hypervisor.Driver) {
	lister, ok := driver.(hypervisor.ProjectLister)
	if !ok {
		return
	}
	if list, err := lister.Projects(ctx); err == nil {
		c.out.Projects = list
	}
}

func project(t hypervisor.Target) string {
	if t.Project == "" {
		return "default"
	}
	return t.Project
}

// entry is the item that says whether the host lets us in.
func (c checklist) entry() string {
	switch {
	case c.address.Transport == hypervisor.TransportUnix:
		return checkGroup
	case c.lxd:
		return checkTrust
	default:
		return checkLogin
	}
}

func (c checklist) answers() { c.ok("something answers at "+c.address.String(), checkReach) }

// compare says how to find out the host's own key.
func (c checklist) compare() string {
	own := "`ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub`"
	switch {
	case c.lxd:
		own = "`lxc info | grep certificate_fingerprint`"
	case c.address.Transport == hypervisor.TransportTLS:
		own = "`openssl x509 -in /etc/pki/libvirt/servercert.pem -noout -fingerprint -sha256`"
	}
	return "compare it with the host's own, for example " + own + " on the host, and give it as host key"
}

// entered adds the items up to where the host let us in, at an item.
func (c checklist) entered(key, at string) {
	c.answers()
	order := checkOrder(c.address)
	for _, check := range order[:slices.Index(order, at)+1] {
		switch {
		case check == checkHostKey && key == "":
			c.ok("this address has no host key", check)
		case check == checkHostKey:
			c.ok("the host presents the expected key "+c.out.GetFingerprint(), check)
		case check == checkLogin:
			c.ok("logged in", check)
		case check == checkTrust:
			c.ok("the server trusts the certificate", check)
		case check == checkGroup:
			c.ok("the hypervisor's socket may be used", check)
		}
	}
	if at == checkLogin && slices.Contains(order, checkGroup) { // nobody logs in but to use the socket
		c.ok("the hypervisor's socket may be used", checkGroup)
	}
}

func verifiedByCA(t hypervisor.Target) bool {
	return t.Address.Transport == hypervisor.TransportTLS && t.Credential.GetTls().GetCaPem() != ""
}

// notOpened says which item a failure to connect belongs to, by its class.
func (c checklist) notOpened(target hypervisor.Target, key string, err error) *vmhostv1.CheckVmHostResult {
	unreached := errors.Is(err, hypervisor.ErrUnreachable) || errors.Is(err, hypervisor.ErrTimeout)
	refused := errors.Is(err, hypervisor.ErrRefused)
	switch {
	case errors.Is(err, hypervisor.ErrHostKey):
		if e, ok := errors.AsType[*hypervisor.Error](err); ok && e.PresentedHostKey != "" {
			c.out.HostKey = e.PresentedHostKey
		}
		c.answers()
		c.fail(checkHostKey, err, "find out why the key is another one before it is confirmed")
		return c.finish("the host key is not the expected one")
	case errors.Is(err, hypervisor.ErrAuth):
		c.entered(key, checkReach)
		if key != "" {
			c.ok("the host presents the expected key "+c.out.GetFingerprint(), checkHostKey)
		} else {
			c.ok("this address has no host key", checkHostKey)
		}
		if c.entry() == checkGroup {
			c.add(checkGroup, checkFailed, err.Error(), c.usermod())
			return c.finish("the hypervisor's socket may not be used")
		}
		c.fail(c.entry(), err, "see that the host knows the key or password, and that the user may log in")
		return c.finish("the credential was refused")
	case c.lxd && refused:
		c.entered(key, c.entry())
		c.fail(checkProject, err, "choose a project that the certificate may use")
		return c.finish("the project cannot be used")
	case key == "":
		c.fail(checkReach, err, "see that the hypervisor runs and that this rack may use "+target.Address.String())
		return c.finish("the address is not reached")
	case c.address.Transport == hypervisor.TransportSSH && (unreached || refused):
		// The host has just shown its key; what is not reached is the socket behind
		// the login.
		c.entered(key, checkHostKey)
		c.ok("logged in as "+c.address.User, checkLogin)
		if refused {
			c.fail(checkGroup, err, c.usermod())
		} else {
			c.add(checkGroup, checkFailed, err.Error(), c.usermod())
		}
		return c.finish("the hypervisor's socket is not reached")
	}
	c.entered(key, checkHostKey)
	c.add(c.entry(), checkSkipped, "not known, since the hypervisor was not reached", "")
	c.fail(checkHypervisor, err, "see that the hypervisor runs and that the user may use it")
	return c.finish("the hypervisor is not reached")
}

// usermod says how the socket is opened to whoever logs in.
func (c checklist) usermod() string {
	group, service := "libvirt", "libvirtd"
	if c.lxd {
		group, service = "lxd", "lxd"
	}
	if c.address.Transport == hypervisor.TransportSSH {
		return fmt.Sprintf("on the host: `sudo usermod -aG %s %s`, and see with `systemctl status %s` that it runs", group, c.address.User, service)
	}
	who := "USER"
	if me, err := user.Current(); err == nil {
		who = me.Username
	}
	return fmt.Sprintf("on the rack's machine: `sudo usermod -aG %s %s`, and start the rack again", group, who)
}
