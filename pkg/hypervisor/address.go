package hypervisor

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"regexp"
	"strconv"
	"strings"

	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// Transport is how a hypervisor is reached.
type Transport string

// The transports that addresses can name.
const (
	TransportUnix Transport = "unix"
	TransportSSH  Transport = "ssh"
	TransportTLS  Transport = "tls"
	// TransportHTTPS is LXD over the network.
	TransportHTTPS Transport = "https"
	TransportFake  Transport = "fake"
)

// Address is a parsed hypervisor address.
type Address struct {
	// Type is the hypervisor that answers there.
	Type vmhostv1.VmHostType
	// Transport is how it is reached.
	Transport Transport
	// User logs in, for TransportSSH.
	User string
	// Host is the name or IP address, without brackets. For TransportUnix it is
	// the name of a socket in the rack's configuration, empty for the machine's
	// default socket. For TransportFake it is the name of the fake host.
	Host string
	// Port is the TCP port, never 0 where there is one.
	Port int
}

var (
	unixUser   = regexp.MustCompile(`^[a-z_][-a-z0-9_.]{0,31}$`)
	socketName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)
	dnsName    = regexp.MustCompile(`^([a-zA-Z0-9_]([-a-zA-Z0-9_]{0,61}[a-zA-Z0-9_])?\.)*[a-zA-Z0-9_]([-a-zA-Z0-9_]{0,61}[a-zA-Z0-9_])?\.?$`)
)

const addressForms = "write qemu:///system, qemu+unix://SOCKET/system, qemu+ssh://USER@HOST[:PORT]/system or qemu+tls://HOST[:PORT]/system for libvirt, https://HOST[:PORT] or lxd+unix://SOCKET for LXD"

// ParseAddressAs is ParseAddress for an address whose hypervisor is known: an LXD
// server may be written as HOST[:PORT] alone, as its own tools do. Type
// unspecified is ParseAddress.
func ParseAddressAs(t vmhostv1.VmHostType, s string) (Address, error) {
	if t == vmhostv1.VmHostType_VM_HOST_TYPE_LXD && !strings.Contains(s, "://") {
		if strings.Count(s, ":") > 1 && !strings.Contains(s, "[") {
			s = "[" + s + "]" // an IPv6 address; a port needs the brackets
		}
		s = "https://" + s
	}
	return ParseAddress(s)
}

// ParseAddress reads an address of a VM host. It accepts a closed grammar and
// nothing else: a libvirt URI can otherwise carry commands to run, sockets and
// switches that turn verification off.
func ParseAddress(s string) (Address, error) {
	for _, r := range s {
		if r <= ' ' || r == 0x7f {
			return Address{}, fmt.Errorf("has white space or a control character; %s", addressForms)
		}
	}
	if strings.ContainsAny(s, "?#") {
		return Address{}, fmt.Errorf("has a query string or fragment, which are not accepted: keys, sockets and host keys are fields of their own; %s", addressForms)
	}
	u, err := url.Parse(s)
	if err != nil || !strings.Contains(s, "://") {
		return Address{}, fmt.Errorf("is no address; %s", addressForms)
	}
	if _, has := u.User.Password(); has {
		return Address{}, errors.New("carries a password; send it as credential")
	}
	a := Address{User: u.User.Username(), Host: u.Hostname()}
	path := "/system"
	switch u.Scheme {
	case "qemu", "qemu+unix":
		a.Type, a.Transport = vmhostv1.VmHostType_VM_HOST_TYPE_LIBVIRT, TransportUnix
		if u.Scheme == "qemu" && u.Host != "" {
			return Address{}, fmt.Errorf("names a host without a transport; %s", addressForms)
		}
		if a.Host != "" && !socketName.MatchString(a.Host) {
			return Address{}, fmt.Errorf("names no socket of a rack's configuration; %s", addressForms)
		}
	case "qemu+ssh":
		a.Type, a.Transport, a.Port = vmhostv1.VmHostType_VM_HOST_TYPE_LIBVIRT, TransportSSH, 22
		if !unixUser.MatchString(a.User) {
			return Address{}, fmt.Errorf("needs a user to log in as; %s", addressForms)
		}
	case "qemu+tls":
		a.Type, a.Transport, a.Port = vmhostv1.VmHostType_VM_HOST_TYPE_LIBVIRT, TransportTLS, 16514
	case "https":
		a.Type, a.Transport, a.Port = vmhostv1.VmHostType_VM_HOST_TYPE_LXD, TransportHTTPS, 8443
		if path = ""; u.Path == "/" { // which browsers add
			path = "/"
		}
	case "lxd+unix":
		a.Type, a.Transport, path = vmhostv1.VmHostType_VM_HOST_TYPE_LXD, TransportUnix, ""
		if a.Host != "" && !socketName.MatchString(a.Host) {
			return Address{}, fmt.Errorf("names no socket of a rack's configuration; %s", addressForms)
		}
	case "fake":
		a.Type, a.Transport, path = vmhostv1.VmHostType_VM_HOST_TYPE_FAKE, TransportFake, ""
		if !socketName.MatchString(a.Host) {
			return Address{}, errors.New("needs the form fake://NAME")
		}
	default:
		return Address{}, fmt.Errorf("has an unknown scheme %q; %s", u.Scheme, addressForms)
	}
	if u.Path != path || u.Opaque != "" || u.RawPath != "" {
		return Address{}, fmt.Errorf("must end in %q; %s", path, addressForms)
	}
	if a.User != "" && a.Transport != TransportSSH {
		return Address{}, errors.New("names a user, which only qemu+ssh takes")
	}
	if a.Port == 0 {
		if u.Port() != "" {
			return Address{}, errors.New("names a port, which this scheme does not take")
		}
		return a, nil
	}
	if err := a.setHostPort(u); err != nil {
		return Address{}, err
	}
	return a, nil
}

func (a *Address) setHostPort(u *url.URL) error {
	if ip, err := netip.ParseAddr(a.Host); err == nil {
		ip = ip.Unmap()
		if ip.IsUnspecified() || ip.IsMulticast() {
			return errors.New("names no single host")
		}
		if ip.Zone() != "" {
			return errors.New("names an interface of some machine, which every rack would read differently")
		}
		a.Host = ip.String()
	} else {
		if len(a.Host) > 253 || !dnsName.MatchString(a.Host) {
			return fmt.Errorf("names no host; %s", addressForms)
		}
		a.Host = strings.ToLower(strings.TrimSuffix(a.Host, "."))
	}
	if p := u.Port(); p != "" {
		n, err := strconv.Atoi(p)
		if err != nil || n < 1 || n > 65535 {
			return errors.New("has a port outside 1 to 65535")
		}
		a.Port = n
	} else if strings.HasSuffix(u.Host, ":") {
		return errors.New("has an empty port")
	}
	return nil
}

// HostPort is what to dial, for the transports that have a port.
func (a Address) HostPort() string { return net.JoinHostPort(a.Host, strconv.Itoa(a.Port)) }

// String is the canonical form: two addresses are of the same hypervisor and
// login when these are equal.
func (a Address) String() string {
	switch a.Transport {
	case TransportUnix:
		if a.Type == vmhostv1.VmHostType_VM_HOST_TYPE_LXD {
			return "lxd+unix://" + a.Host
		}
		if a.Host == "" {
			return "qemu:///system"
		}
		return "qemu+unix://" + a.Host + "/system"
	case TransportSSH:
		return "qemu+ssh://" + a.User + "@" + a.HostPort() + "/system"
	case TransportTLS:
		return "qemu+tls://" + a.HostPort() + "/system"
	case TransportHTTPS:
		return "https://" + a.HostPort()
	case TransportFake:
		return "fake://" + a.Host
	}
	return ""
}
