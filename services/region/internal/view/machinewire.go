package view

import "google.golang.org/protobuf/encoding/protowire"

// Fields of the contract that are looked at, or written, in encoded messages. A
// test compares them with the contract, and asks about each that is added.
const (
	recordResource, recordMove          = 1, 5 // of StoredMachine
	seenObservation, seenChangeTime     = 1, 3 // of StoredSeenMachine
	timeSeconds, timeNanos              = 1, 2 // of Timestamp
	diskPool, diskVolume, diskSize      = 1, 2, 3
	diskDevice, diskPath, diskName      = 4, 5, 7
	interfaceMAC, interfaceAddresses    = 1, 4
	observedName, observedPower         = 2, 5 // of MachineObservation
	observedCores, observedMemory       = 6, 7
	observedDisks, observedInterfaces   = 9, 10
	observedLog, observedProblem        = 11, 12
	observedType, observedFirmware      = 14, 17
	observedProject                     = 21
	machineUID, machineEtag             = 2, 3 // of Machine
	machineVMHost, machineZone          = 8, 9
	machineName, machineUUID            = 11, 12 // the hypervisor's
	machineCores, machineMemory         = 14, 15
	machineDisks, machineInterfaces     = 16, 17
	machinePower, machineObserveTime    = 20, 21
	machineConditions, machineAddresses = 22, 24
	machineLog, machineType             = 25, 26
	machineFirmware, machineProject     = 29, 33
)

// maxDevices is how many disks, and interfaces, are compared in encoded form.
const maxDevices = 8

// wireDisk is what of a disk is compared and shown.
type wireDisk struct {
	pool, volume, name, device, path []byte
	size                             int64
	pair                             int  // which of the other side's is the same; -1: none
	moved                            bool // its device or path is not what is stored
}

func (d *wireDisk) read(data []byte) bool {
	*d = wireDisk{}
	r := fieldsOf(data)
	for r.next() {
		switch r.number {
		case diskPool:
			r.ok = r.text(&d.pool)
		case diskVolume:
			r.ok = r.text(&d.volume)
		case diskSize:
			r.ok = r.number64(&d.size)
		case diskDevice:
			r.ok = r.text(&d.device)
		case diskPath:
			r.ok = r.text(&d.path)
		case diskName:
			r.ok = r.text(&d.name)
		}
	}
	return r.ok
}

// wireInterface is what of an interface is compared and shown.
type wireInterface struct {
	mac  []byte
	all  []byte // the interface
	has  bool   // addresses
	pair int
}

func (i *wireInterface) read(data []byte) bool {
	*i = wireInterface{all: data}
	r := fieldsOf(data)
	for r.next() {
		switch r.number {
		case interfaceMAC:
			r.ok = r.text(&i.mac)
		case interfaceAddresses:
			i.has, r.ok = true, r.kind == protowire.BytesType
		}
	}
	return r.ok
}

// wireMachine is what a record and an observation of a machine have in common.
type wireMachine struct {
	uid, uuid, name, vmHost, project, log []byte

	cores                 int32
	memory                int64
	power, kind, firmware int32

	diskRoom                  [maxDevices]wireDisk
	interfaceRoom             [maxDevices]wireInterface
	diskCount, interfaceCount int
}

func (m *wireMachine) disks() []wireDisk { return m.diskRoom[:m.diskCount] }

func (m *wireMachine) interfaces() []wireInterface { return m.interfaceRoom[:m.interfaceCount] }

func (m *wireMachine) addDisk(f *wireField) bool {
	if f.kind != protowire.BytesType || m.diskCount == maxDevices {
		return false
	}
	m.diskCount++
	return m.diskRoom[m.diskCount-1].read(f.bytes)
}

func (m *wireMachine) addInterface(f *wireField) bool {
	if f.kind != protowire.BytesType || m.interfaceCount == maxDevices {
		return false
	}
	m.interfaceCount++
	return m.interfaceRoom[m.interfaceCount-1].read(f.bytes)
}

// readRecord reads a StoredMachine, and answers with its resource. It answers false
// for what is not shown as it is stored.
func (m *wireMachine) readRecord(data []byte) (resource []byte, ok bool) {
	resource, move, ok := both(data, recordResource, recordMove)
	if !ok || resource == nil || move != nil {
		return nil, false
	}
	r := fieldsOf(resource)
	for r.next() {
		switch r.number {
		case machineUID:
			r.ok = r.text(&m.uid)
		case machineVMHost:
			r.ok = r.text(&m.vmHost)
		case machineName:
			r.ok = r.text(&m.name)
		case machineUUID:
			r.ok = r.text(&m.uuid)
		case machineCores:
			r.ok = r.number32(&m.cores)
		case machineMemory:
			r.ok = r.number64(&m.memory)
		case machineDisks:
			r.ok = m.addDisk(&r.wireField)
		case machineInterfaces:
			r.ok = m.addInterface(&r.wireField)
		case machineType:
			r.ok = r.number32(&m.kind)
		case machineFirmware:
			r.ok = r.number32(&m.firmware)
		case machineProject:
			r.ok = r.text(&m.project)
		case machineAddresses:
			r.ok = false // what is observed is not stored
		}
	}
	return resource, r.ok
}

// readSeen reads a StoredSeenMachine, and answers with when it changed.
func (m *wireMachine) readSeen(data []byte) (changed []byte, ok bool) {
	observation, changed, ok := both(data, seenObservation, seenChangeTime)
	if !ok {
		return nil, false
	}
	r := fieldsOf(observation)
	for r.next() {
		switch r.number {
		case observedName:
			r.ok = r.text(&m.name)
		case observedPower:
			r.ok = r.number32(&m.power)
		case observedCores:
			r.ok = r.number32(&m.cores)
		case observedMemory:
			r.ok = r.number64(&m.memory)
		case observedDisks:
			r.ok = m.addDisk(&r.wireField)
		case observedInterfaces:
			r.ok = m.addInterface(&r.wireField)
		case observedLog:
			r.ok = r.text(&m.log)
		case observedProblem:
			r.ok = r.kind == protowire.BytesType && len(r.bytes) == 0
		case observedType:
			r.ok = r.number32(&m.kind)
		case observedFirmware:
			r.ok = r.number32(&m.firmware)
		case observedProject:
			r.ok = r.text(&m.project)
		}
	}
	return changed, r.ok
}

// both are two messages in an encoded one, nil where there is none. It answers
// false when one is there twice, which would have to be merged.
func both(data []byte, one, two int32) (a, b []byte, ok bool) {
	r := fieldsOf(data)
	for r.next() {
		into := &a
		switch r.number {
		case one:
		case two:
			into = &b
		default:
			continue
		}
		r.ok = *into == nil && r.text(into) && r.bytes != nil
	}
	return a, b, r.ok
}
