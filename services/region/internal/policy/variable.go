package policy

import (
	"maps"
	"slices"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
)

// Host is what a predicate can ask of a host.
type Host struct {
	// ID and Zone are ids.
	ID, Zone string
	// Tags, Architectures and Capabilities are as the resource shows them.
	Tags, Architectures, Capabilities []string
	// Cores and MemoryMiB are what it has, FreeCores and FreeMemoryMiB what is free
	// within its limits.
	Cores, MemoryMiB, FreeCores, FreeMemoryMiB int64
	// Machines is how many machines hold commitments.
	Machines int64
	// KVM says that guests run by KVM and not by emulation.
	KVM bool
}

// Machine is what a predicate can ask of the machine that is placed.
type Machine struct {
	// Cores and MemoryMiB are what is asked for.
	Cores, MemoryMiB int64
	// Tags are those it will have.
	Tags []string
	// ResourcePool is an id.
	ResourcePool string
}

// The names of the variables.
const (
	hostVariable    = "host"
	machineVariable = "machine"
)

// The names of the types, as errors of CEL show them.
const (
	hostType    = "vmhost.Host"
	machineType = "vmhost.Machine"
)

// field is one field of a variable: its type, its value of an object, and how
// long its value and its items can be, for the estimate of costs.
type field struct {
	kind        *types.Type
	of          func(object any) ref.Val
	most, items uint64
}

// Bounds of what the contract lets through: labels, tags, and how many.
const (
	maxWord  = 64
	maxWords = 64
)

// provider tells CEL of the two types. Fields are read by functions and not by
// reflection: a predicate runs once per host and decision.
type provider struct {
	*types.Registry
	types map[string]map[string]field
}

func newProvider() (*provider, error) {
	registry, err := types.NewRegistry()
	if err != nil {
		return nil, err
	}
	number := func(get func(any) int64) field {
		return field{kind: types.IntType, of: func(o any) ref.Val { return types.Int(get(o)) }, most: 1}
	}
	word := func(get func(any) string) field {
		return field{kind: types.StringType, of: func(o any) ref.Val { return types.String(get(o)) }, most: maxWord}
	}
	words := func(get func(any) []string) field {
		return field{kind: types.NewListType(types.StringType), of: func(o any) ref.Val { return types.NewStringList(registry, get(o)) }, most: maxWords, items: maxWord}
	}
	host := func(o any) *Host {
		h, _ := o.(*Host) // the only thing that `host` stands for
		return h
	}
	machine := func(o any) *Machine {
		m, _ := o.(*Machine) // the only thing that `machine` stands for
		return m
	}
	return &provider{Registry: registry, types: map[string]map[string]field{
		hostType: {
			"id":              word(func(o any) string { return host(o).ID }),
			"zone":            word(func(o any) string { return host(o).Zone }),
			"tags":            words(func(o any) []string { return host(o).Tags }),
			"architectures":   words(func(o any) []string { return host(o).Architectures }),
			"capabilities":    words(func(o any) []string { return host(o).Capabilities }),
			"cores":           number(func(o any) int64 { return host(o).Cores }),
			"memory_mib":      number(func(o any) int64 { return host(o).MemoryMiB }),
			"free_cores":      number(func(o any) int64 { return host(o).FreeCores }),
			"free_memory_mib": number(func(o any) int64 { return host(o).FreeMemoryMiB }),
			"machines":        number(func(o any) int64 { return host(o).Machines }),
			"kvm":             {kind: types.BoolType, of: func(o any) ref.Val { return types.Bool(host(o).KVM) }, most: 1},
		},
		machineType: {
			"cores":         number(func(o any) int64 { return machine(o).Cores }),
			"memory_mib":    number(func(o any) int64 { return machine(o).MemoryMiB }),
			"tags":          words(func(o any) []string { return machine(o).Tags }),
			"resource_pool": word(func(o any) string { return machine(o).ResourcePool }),
		},
	}}, nil
}

// options are the variables.
func (p *provider) options() []cel.EnvOption {
	return []cel.EnvOption{
		cel.CustomTypeProvider(p), cel.CustomTypeAdapter(p.Registry),
		cel.Variable(hostVariable, cel.ObjectType(hostType)), cel.Variable(machineVariable, cel.ObjectType(machineType)),
	}
}

// FindStructType is for CEL's checker.
func (p *provider) FindStructType(name string) (*types.Type, bool) {
	if _, ok := p.types[name]; ok {
		return types.NewTypeTypeWithParam(types.NewObjectType(name)), true
	}
	return p.Registry.FindStructType(name)
}

// FindStructFieldNames is for CEL's checker.
func (p *provider) FindStructFieldNames(name string) ([]string, bool) {
	if fields, ok := p.types[name]; ok {
		return slices.Sorted(maps.Keys(fields)), true
	}
	return p.Registry.FindStructFieldNames(name)
}

// FindStructFieldType is for CEL's checker and for its interpreter, which reads
// fields by what is answered here.
func (p *provider) FindStructFieldType(name, of string) (*types.FieldType, bool) {
	f, ok := p.types[name][of]
	if !ok {
		return p.Registry.FindStructFieldType(name, of)
	}
	return &types.FieldType{
		Type:    f.kind,
		IsSet:   func(any) bool { return true },
		GetFrom: func(o any) (any, error) { return f.of(o), nil },
	}, true
}

// fields names what a variable has, for hints.
func (p *provider) fields(name string) []string { return slices.Sorted(maps.Keys(p.types[name])) }
