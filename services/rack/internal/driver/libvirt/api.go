package libvirt

import (
	"context"
	"io"

	lv "github.com/digitalocean/go-libvirt"
)

// api is what this package needs of go-libvirt, in its signatures.
type api interface {
	nodeCalls
	domainCalls
	domainPowerCalls
	storageCalls
	networkCalls
	streamCalls
	migrationCalls
}

// streamCalls last as long as their stream and hold up all others of their
// connection when its reader is slow.
type streamCalls interface {
	DomainOpenConsoleBidirectional(dom lv.Domain, device lv.OptString, out io.Reader, in io.Writer, flags uint32) error
	StorageVolDownload(vol lv.StorageVol, in io.Writer, offset, length uint64, flags lv.StorageVolDownloadFlags) error
	StorageVolUpload(vol lv.StorageVol, out io.Reader, offset, length uint64, flags lv.StorageVolUploadFlags) error
}

// migrationCalls are the phases of a live migration that its client drives, by
// version 3 of libvirt's protocol, and what forbids one.
type migrationCalls interface {
	DomainMigrateBegin3Params(dom lv.Domain, params []lv.TypedParam, flags uint32) (cookie []byte, xml string, err error)
	DomainMigratePrepare3Params(params []lv.TypedParam, cookie []byte, flags uint32) (out []byte, uri lv.OptString, err error)
	DomainMigratePerform3Params(dom lv.Domain, dconnuri lv.OptString, params []lv.TypedParam, cookie []byte, flags lv.DomainMigrateFlags) (out []byte, err error)
	DomainMigrateFinish3Params(params []lv.TypedParam, cookie []byte, flags uint32, cancelled int32) (dom lv.Domain, out []byte, err error)
	DomainMigrateConfirm3Params(dom lv.Domain, params []lv.TypedParam, cookie []byte, flags uint32, cancelled int32) error
	DomainAbortJob(dom lv.Domain) error
	DomainGetJobInfo(dom lv.Domain) (kind int32, elapsed, remaining, total, processed, left, memory, memoryProcessed, memoryLeft, file, fileProcessed, fileLeft uint64, err error)
	DomainHasManagedSaveImage(dom lv.Domain, flags uint32) (int32, error)
	DomainSnapshotNum(dom lv.Domain, flags uint32) (int32, error)
}

type nodeCalls interface {
	ConnectGetCapabilities() (string, error)
	ConnectGetDomainCapabilities(emulator, arch, machine, virtType lv.OptString, flags lv.ConnectGetDomainCapabilitiesFlags) (string, error)
	ConnectGetHostname() (string, error)
	ConnectGetLibVersion() (uint64, error)
	ConnectGetVersion() (uint64, error)
	NodeGetInfo() (model [32]int8, memory uint64, cpus, mhz, nodes, sockets, cores, threads int32, err error)
	NodeGetFreePages(pages []uint32, startCell int32, cellCount, flags uint32) ([]uint64, error)
	SubscribeEvents(ctx context.Context, event lv.DomainEventID, dom lv.OptDomain) (<-chan any, error)
}

type domainCalls interface {
	ConnectListAllDomains(needResults int32, flags lv.ConnectListAllDomainsFlags) ([]lv.Domain, uint32, error)
	ConnectGetAllDomainStats(doms []lv.Domain, stats, flags uint32) ([]lv.DomainStatsRecord, error)
	DomainGetXMLDesc(dom lv.Domain, flags lv.DomainXMLFlags) (string, error)
	DomainDefineXMLFlags(xml string, flags lv.DomainDefineFlags) (lv.Domain, error)
	DomainUndefineFlags(dom lv.Domain, flags lv.DomainUndefineFlagsValues) error
	DomainSetAutostart(dom lv.Domain, autostart int32) error
	DomainSetMetadata(dom lv.Domain, kind int32, metadata, key, uri lv.OptString, flags lv.DomainModificationImpact) error
}

type domainPowerCalls interface {
	DomainGetState(dom lv.Domain, flags uint32) (state, reason int32, err error)
	DomainCreateWithFlags(dom lv.Domain, flags uint32) (lv.Domain, error)
	DomainShutdownFlags(dom lv.Domain, flags lv.DomainShutdownFlagValues) error
	DomainDestroyFlags(dom lv.Domain, flags lv.DomainDestroyFlagsValues) error
	DomainReset(dom lv.Domain, flags uint32) error
	DomainSuspend(dom lv.Domain) error
	DomainResume(dom lv.Domain) error
	DomainPmWakeup(dom lv.Domain, flags uint32) error
}

type storageCalls interface {
	ConnectListAllStoragePools(needResults int32, flags lv.ConnectListAllStoragePoolsFlags) ([]lv.StoragePool, uint32, error)
	StoragePoolGetXMLDesc(pool lv.StoragePool, flags lv.StorageXMLFlags) (string, error)
	StoragePoolGetInfo(pool lv.StoragePool) (state uint8, capacity, allocation, available uint64, err error)
	StoragePoolListAllVolumes(pool lv.StoragePool, needResults int32, flags uint32) ([]lv.StorageVol, uint32, error)
	StoragePoolDefineXML(xml string, flags uint32) (lv.StoragePool, error)
	StoragePoolBuild(pool lv.StoragePool, flags lv.StoragePoolBuildFlags) error
	StoragePoolCreate(pool lv.StoragePool, flags lv.StoragePoolCreateFlags) error
	StoragePoolUndefine(pool lv.StoragePool) error
	StoragePoolSetAutostart(pool lv.StoragePool, autostart int32) error
	StoragePoolRefresh(pool lv.StoragePool, flags uint32) error
	StorageVolCreateXML(pool lv.StoragePool, xml string, flags lv.StorageVolCreateFlags) (lv.StorageVol, error)
	StorageVolGetInfo(vol lv.StorageVol) (kind int8, capacity, allocation uint64, err error)
	StorageVolGetInfoFlags(vol lv.StorageVol, flags uint32) (kind int8, capacity, allocation uint64, err error)
	StorageVolGetPath(vol lv.StorageVol) (string, error)
	StorageVolGetXMLDesc(vol lv.StorageVol, flags uint32) (string, error)
	StorageVolDelete(vol lv.StorageVol, flags lv.StorageVolDeleteFlags) error
}

type networkCalls interface {
	ConnectListAllNetworks(needResults int32, flags lv.ConnectListAllNetworksFlags) ([]lv.Network, uint32, error)
	NetworkGetXMLDesc(network lv.Network, flags uint32) (string, error)
	NetworkGetDhcpLeases(network lv.Network, mac lv.OptString, needResults int32, flags uint32) ([]lv.NetworkDhcpLease, uint32, error)
	NetworkUpdateCompat(network lv.Network, command lv.NetworkUpdateCommand, section lv.NetworkUpdateSection, parent int32, xml string, flags lv.NetworkUpdateFlags) error
	NetworkCreate(network lv.Network) error
	NetworkSetAutostart(network lv.Network, autostart int32) error
	ConnectListAllInterfaces(needResults int32, flags lv.ConnectListAllInterfacesFlags) ([]lv.Interface, uint32, error)
	InterfaceGetXMLDesc(iface lv.Interface, flags uint32) (string, error)
	ConnectListAllNodeDevices(needResults int32, flags uint32) ([]lv.NodeDevice, uint32, error)
	NodeDeviceGetXMLDesc(name string, flags uint32) (string, error)
}

var _ api = (*lv.Libvirt)(nil)
