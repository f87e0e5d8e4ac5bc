package libvirt

import (
	"path"
	"slices"
	"strings"

	"libvirt.org/go/libvirtxml"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
)

// sharedIdentity is what is behind a storage pool that other hosts can have as
// well, in words that are the same on each of them; empty for one that is its
// host's alone, as far as its XML tells. A folder does not say where it comes
// from.
//
// Where hosts name one and the same thing differently (another monitor, another
// address of the server) the words differ too; the operator can say what is right.
//
// https://libvirt.org/formatstorage.html#storage-pool-general-metadata
func sharedIdentity(x *libvirtxml.StoragePool) string {
	s := x.Source
	if s == nil {
		return ""
	}
	switch x.Type {
	case "netfs":
		return netfsIdentity(s)
	case "rbd":
		return atHosts("rbd", s.Host, "6789", s.Name)
	case "gluster":
		return atHosts("gluster", s.Host, "24007", s.Name) // the space is that of the volume, whatever folder of it this is
	case "sheepdog":
		return atHosts("sheepdog", s.Host, "7000", s.Name)
	case "iscsi", "iscsi-direct":
		// The name of a target is its own in all the world.
		if len(s.Device) > 0 && s.Device[0].Path != "" {
			return hypervisor.SharedIdentity("iscsi", "", strings.ToLower(s.Device[0].Path))
		}
	case "vstorage":
		if s.Name != "" {
			return hypervisor.SharedIdentity("vstorage", "", s.Name)
		}
	default:
	}
	return ""
}

func netfsIdentity(s *libvirtxml.StoragePoolSource) string {
	if s.Dir == nil || s.Dir.Path == "" {
		return ""
	}
	format := "nfs"
	if s.Format != nil {
		switch s.Format.Type {
		case "", "auto", "nfs":
		case "glusterfs":
			volume, _, _ := strings.Cut(strings.Trim(s.Dir.Path, "/"), "/")
			return atHosts("gluster", s.Host, "24007", volume)
		default:
			format = s.Format.Type
		}
	}
	return atHosts(format, s.Host, "2049", strings.TrimPrefix(path.Clean("/"+s.Dir.Path), "/"))
}

// atHosts is a name on servers. Their order does not matter, nor does a port that
// is the usual one.
func atHosts(kind string, hosts []libvirtxml.StoragePoolSourceHost, usual, name string) string {
	if len(hosts) == 0 || name == "" {
		return ""
	}
	var words []string
	for _, h := range hosts {
		word := strings.ToLower(h.Name)
		if h.Port != "" && h.Port != usual && h.Port != "0" {
			word += ":" + h.Port
		}
		words = append(words, word)
	}
	slices.Sort(words)
	return hypervisor.SharedIdentity(kind, strings.Join(slices.Compact(words), ","), name)
}
