package view

import (
	"bytes"
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

// AppendMachine appends the encoded form of what Machine shows. Nearly all of a
// machine is shown as it is stored, so that what is stored is looked at and copied
// in its encoded form; a machine of which more is to be said (it is moved, missing,
// not readable, changed outside of vmhost, …) is decoded.
func AppendMachine(b []byte, v *store.View, fresh LastSeen, hosts *Hosts, r store.Stored[*storev1.StoredMachine]) ([]byte, error) {
	if out, ok := appendAsStored(b, v, fresh, hosts, r); ok {
		return out, nil
	}
	out, err := proto.MarshalOptions{}.MarshalAppend(b, OwnMachine(v, fresh, r.Read()))
	if err != nil {
		return b, fmt.Errorf("encode a machine: %w", err)
	}
	return out, nil
}

// appendAsStored answers false, having appended nothing that counts, for a machine
// that has to be decoded. It follows shown, step by step.
func appendAsStored(b []byte, v *store.View, fresh LastSeen, hosts *Hosts, r store.Stored[*storev1.StoredMachine]) ([]byte, bool) {
	var m, o wireMachine
	resource, ok := m.readRecord(r.Bytes())
	if !ok {
		return b, false
	}
	hostID := id(string(m.vmHost))
	domain := m.uuid
	if len(domain) == 0 {
		domain = m.uid
	}
	host, ok := hosts.get(v, hostID)
	if !ok {
		return b, false
	}
	seen, ok := store.Seen.Find(v, hostID, string(domain))
	if !ok {
		return b, false
	}
	changed, ok := o.readSeen(seen.Bytes())
	if !ok || !m.sameAs(&o) {
		return b, false
	}
	at, ok := readInstant(changed)
	if !ok {
		return b, false
	}
	at = laterInstant(observedAt(host.observed, fresh, hostID), at)
	b = appendText(b, machineEtag, Etag(r.Revision()))
	if host.zone != "" {
		b = appendText(b, machineZone, host.zone)
	}
	if b, ok = m.appendResource(b, resource, &o); !ok {
		return b, false
	}
	b = at.append(b, machineObserveTime)
	if host.ready {
		return appendEnum(b, machinePower, o.power), true
	}
	b, err := appendMessage(b, machineConditions, notObserved("vmHosts/"+hostID, at.timestamp()))
	return b, err == nil
}

// sameAs says whether what was observed is what is recorded, as Changed sees it;
// false also when it is not plain that it is. After it the device and the path of
// a disk are what observe makes of them.
func (m *wireMachine) sameAs(o *wireMachine) bool {
	return (len(o.name) == 0 || bytes.Equal(o.name, m.name)) &&
		(o.cores == 0 || o.cores == m.cores) && (o.memory == 0 || o.memory == m.memory) &&
		m.pairInterfaces(o) && m.pairDisks(o)
}

func (m *wireMachine) pairInterfaces(o *wireMachine) bool {
	for k := range m.interfaces() {
		m.interfaceRoom[k].pair = -1
	}
	for i := range o.interfaces() {
		pair := -1
		for k := range m.interfaces() {
			if !bytes.Equal(m.interfaceRoom[k].mac, o.interfaceRoom[i].mac) {
				continue
			}
			if pair >= 0 || m.interfaceRoom[k].pair >= 0 {
				return false
			}
			pair, m.interfaceRoom[k].pair = k, i
		}
		if pair < 0 && len(o.interfaceRoom[i].mac) > 0 {
			return false // added
		}
	}
	for _, i := range m.interfaces() {
		if i.pair < 0 || i.has {
			return false // gone; or what is observed is stored
		}
	}
	return true
}

func (m *wireMachine) pairDisks(o *wireMachine) bool {
	if !m.pairDisksOnce(o) {
		return false
	}
	again := false
	for k := range m.disks() {
		d := &m.diskRoom[k]
		seen := &o.diskRoom[d.pair]
		if d.size != 0 && seen.size != 0 && (seen.size < d.size || seen.size > d.size+rounding) {
			return false
		}
		if !bytes.Equal(d.device, seen.device) || !bytes.Equal(d.path, seen.path) {
			d.device, d.path, d.moved, again = seen.device, seen.path, true, true
		}
	}
	return !again || m.pairDisksOnce(o) // by their new device and path as before
}

// pairDisksOnce finds for each disk the one that is the same, and answers false
// when there is not exactly one.
func (m *wireMachine) pairDisksOnce(o *wireMachine) bool {
	for k := range m.disks() {
		m.diskRoom[k].pair = -1
	}
	for i := range o.disks() {
		pair := -1
		for k := range m.disks() {
			if !m.diskRoom[k].same(&o.diskRoom[i]) {
				continue
			}
			if pair >= 0 || m.diskRoom[k].pair >= 0 {
				return false
			}
			pair, m.diskRoom[k].pair = k, i
		}
		if pair < 0 && len(o.diskRoom[i].volume) > 0 {
			return false // added
		}
	}
	for _, d := range m.disks() {
		if d.pair < 0 {
			return false // gone
		}
	}
	return true
}

// same is sameDisk.
func (d *wireDisk) same(seen *wireDisk) bool {
	switch {
	case len(d.volume) > 0 && bytes.Equal(d.volume, seen.volume), len(d.name) > 0 && bytes.Equal(d.name, seen.name):
		return bytes.Equal(d.pool, seen.pool)
	default:
		return len(d.volume) == 0 && len(seen.volume) == 0 && bytes.Equal(d.path, seen.path) && bytes.Equal(d.device, seen.device)
	}
}

// appendResource appends the fields of a record's resource with what observe adds
// to them; without those that are appended apart.
func (m *wireMachine) appendResource(b, resource []byte, o *wireMachine) ([]byte, bool) {
	disk, nic := 0, 0
	r := fieldsOf(resource)
	for r.next() {
		switch r.number {
		case machineEtag, machineZone, machinePower, machineObserveTime, machineLog:
		case machineDisks:
			b = m.diskRoom[disk].append(b, &r.wireField)
			disk++
		case machineInterfaces:
			b, r.ok = m.interfaceRoom[nic].append(b, &r.wireField, &o.interfaceRoom[m.interfaceRoom[nic].pair])
			nic++
		default:
			b = append(b, r.whole...)
		}
	}
	if !r.ok {
		return b, false
	}
	if m.kind == 0 {
		b = appendEnum(b, machineType, o.kind)
	}
	if m.firmware == 0 {
		b = appendEnum(b, machineFirmware, o.firmware)
	}
	if len(m.project) == 0 && len(o.project) > 0 {
		b = appendText(b, machineProject, o.project)
	}
	if len(o.log) > 0 {
		b = appendText(b, machineLog, o.log)
	}
	return o.appendAddresses(b)
}

func (d *wireDisk) append(b []byte, f *wireField) []byte {
	if !d.moved {
		return append(b, f.whole...)
	}
	const tags = 2 // of one byte each
	size := len(f.bytes) + tags + protowire.SizeBytes(len(d.device)) + protowire.SizeBytes(len(d.path))
	b = protowire.AppendTag(b, machineDisks, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(size))
	b = append(b, f.bytes...)
	// They replace those before, also when they are empty.
	b = appendText(b, diskDevice, d.device)
	return appendText(b, diskPath, d.path)
}

func (i *wireInterface) append(b []byte, f *wireField, seen *wireInterface) ([]byte, bool) {
	if !seen.has {
		return append(b, f.whole...), true
	}
	size := len(f.bytes)
	ok := eachAddress(seen.all, func(address wireField) bool { size += len(address.whole); return true })
	b = protowire.AppendTag(b, machineInterfaces, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(size))
	b = append(b, f.bytes...)
	return b, ok && eachAddress(seen.all, func(address wireField) bool { b = append(b, address.whole...); return true })
}

func eachAddress(data []byte, do func(address wireField) bool) bool {
	r := fieldsOf(data)
	for r.next() {
		if r.number == interfaceAddresses {
			r.ok = do(r.wireField)
		}
	}
	return r.ok
}

// appendAddresses appends the addresses of all interfaces, each once.
func (m *wireMachine) appendAddresses(b []byte) ([]byte, bool) {
	var known [maxAddresses][]byte
	n := 0
	for i := range m.interfaces() {
		if !m.interfaceRoom[i].has {
			continue
		}
		ok := eachAddress(m.interfaceRoom[i].all, func(address wireField) bool {
			for _, k := range known[:n] {
				if bytes.Equal(k, address.bytes) {
					return true
				}
			}
			if n == maxAddresses {
				return false
			}
			known[n] = address.bytes
			n++
			b = appendText(b, machineAddresses, address.bytes)
			return true
		})
		if !ok {
			return b, false
		}
	}
	return b, true
}

// maxAddresses is how many addresses of a machine are told apart in encoded form.
const maxAddresses = 16
