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
	for len(data) > 0 {
		f, rest, ok := consumeField(data)
		data = rest
		switch f.number {
		case diskPool:
			ok = f.text(&d.pool)
		case diskVolume:
			ok = f.text(&d.volume)
		case diskSize:
			ok = f.number64(&d.size)
		case diskDevice:
			ok = f.text(&d.device)
		case diskPath:
			ok = f.text(&d.path)
		case diskName:
			ok = f.text(&d.name)
		}
		if !ok {
			return false
		}
	}
	return true
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
	for len(data) > 0 {
		f, rest, ok := consumeField(data)
		if !ok {
			return false
		}
		data = rest
		switch f.number {
		case interfaceMAC:
			ok = f.text(&i.mac)
		case interfaceAddresses:
			i.has, ok = true, f.kind == protowire.BytesType
		}
		if !ok {
			return false
		}
	}
	return true
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
	for data := resource; ok && len(data) > 0; {
		var f wireField
		if f, data, ok = consumeField(data); !ok {
			return nil, false
		}
		switch f.number {
		case machineUID:
			ok = f.text(&m.uid)
		case machineVMHost:
			ok = f.text(&m.vmHost)
		case machineName:
			ok = f.text(&m.name)
		case machineUUID:
			ok = f.text(&m.uuid)
		case machineCores:
			ok = f.number32(&m.cores)
		case machineMemory:
			ok = f.number64(&m.memory)
		case machineDisks:
			ok = m.addDisk(&f)
		case machineInterfaces:
			ok = m.addInterface(&f)
		case machineType:
			ok = f.number32(&m.kind)
		case machineFirmware:
			ok = f.number32(&m.firmware)
		case machineProject:
			ok = f.text(&m.project)
		case machineAddresses:
			ok = false // what is observed is not stored
		}
	}
	return resource, ok
}

// readSeen reads a StoredSeenMachine, and answers with when it changed.
func (m *wireMachine) readSeen(data []byte) (changed []byte, ok bool) {
	observation, changed, ok := both(data, seenObservation, seenChangeTime)
	for data := observation; ok && len(data) > 0; {
		var f wireField
		if f, data, ok = consumeField(data); !ok {
			return nil, false
		}
		switch f.number {
		case observedName:
			ok = f.text(&m.name)
		case observedPower:
			ok = f.number32(&m.power)
		case observedCores:
			ok = f.number32(&m.cores)
		case observedMemory:
			ok = f.number64(&m.memory)
		case observedDisks:
			ok = m.addDisk(&f)
		case observedInterfaces:
			ok = m.addInterface(&f)
		case observedLog:
			ok = f.text(&m.log)
		case observedProblem:
			ok = f.kind == protowire.BytesType && len(f.bytes) == 0
		case observedType:
			ok = f.number32(&m.kind)
		case observedFirmware:
			ok = f.number32(&m.firmware)
		case observedProject:
			ok = f.text(&m.project)
		}
	}
	return changed, ok
}

// both are two messages in an encoded one, nil where there is none. It answers
// false when one is there twice, which would have to be merged.
func both(data []byte, one, two int32) (a, b []byte, ok bool) {
	for len(data) > 0 {
		var f wireField
		if f, data, ok = consumeField(data); !ok {
			return nil, nil, false
		}
		into := &a
		switch f.number {
		case one:
		case two:
			into = &b
		default:
			continue
		}
		if *into != nil || !f.text(into) || f.bytes == nil {
			return nil, nil, false
		}
	}
	return a, b, true
}
