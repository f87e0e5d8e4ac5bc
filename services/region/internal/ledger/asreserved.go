package ledger

import (
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	"github.com/vmhost-project/vmhost/pkg/units"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// asReserved is a compose as it goes to a reservation: what it leaves out is as it
// was reserved. What it gives must be the same, but for what no place was chosen
// by: hostname, tags, start, autostart, firmware and MACs; and image, which the
// hosts of the places are looked at for. vm_host and zone say which of the places.
func asReserved(name string, reserved, asked *vmhostv1.ComposeMachineRequest) (*vmhostv1.ComposeMachineRequest, error) {
	out := proto.CloneOf(reserved)
	var differs, fields []string
	asked.ProtoReflect().Range(func(f protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		switch f.Name() {
		case "reservation", "disks":
		case "hostname", "request_id", "validate_only", "tags", "start", "autostart", "firmware", "image", "vm_host", "zone":
			out.ProtoReflect().Set(f, value)
		case "interfaces":
			if sameBut(reserved.GetInterfaces(), asked.GetInterfaces(), func(n *vmhostv1.InterfaceRequest) { n.Mac = "" }) {
				out.Interfaces = asked.GetInterfaces()
				break
			}
			fields, differs = append(fields, "interfaces"), append(differs, "interfaces")
		default:
			if is := reserved.ProtoReflect().Get(f); !alike(f, is, value) {
				fields, differs = append(fields, string(f.Name())), append(differs, difference(f, is, value))
			}
		}
		return true
	})
	if len(asked.GetDisks()) > 0 && !sameBut(reserved.GetDisks(), asked.GetDisks(), func(d *vmhostv1.DiskRequest) { d.SizeBytes = wholeSectors(d.GetSizeBytes()) }) {
		fields, differs = append(fields, "disks"), append(differs, "disks")
	}
	if len(differs) > 0 {
		slices.Sort(fields)
		slices.Sort(differs)
		return nil, apierror.InvalidField("reservation", "is for machines that differ from this one in %s", strings.Join(differs, ", ")).
			With("resource", name).With("differs", strings.Join(fields, ",")).
			WithHint("leave those fields out to have them as they were reserved; `vmhostctl reservation get %s` shows how that is", strings.TrimPrefix(name, reservations))
	}
	return out, nil
}

// wholeSectors is a size as disks have it.
func wholeSectors(bytes int64) int64 { return (bytes + sectorBytes - 1) / sectorBytes * sectorBytes }

// sameBut compares messages without what strip changes.
func sameBut[T proto.Message](a, b []T, strip func(T)) bool {
	return slices.EqualFunc(a, b, func(x, y T) bool {
		x, y = proto.CloneOf(x), proto.CloneOf(y)
		strip(x)
		strip(y)
		return proto.Equal(x, y)
	})
}

// alike compares values of a field. Lists of words are sets.
func alike(f protoreflect.FieldDescriptor, a, b protoreflect.Value) bool {
	if !f.IsList() || f.Kind() != protoreflect.StringKind || f.Name() == "profiles" {
		return a.Equal(b)
	}
	return slices.Equal(wordsOf(a.List()), wordsOf(b.List()))
}

func wordsOf(l protoreflect.List) []string {
	out := make([]string, l.Len())
	for i := range out {
		out[i] = l.Get(i).String()
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func difference(f protoreflect.FieldDescriptor, is, asked protoreflect.Value) string {
	if f.IsList() || f.Kind() == protoreflect.MessageKind || f.Kind() == protoreflect.EnumKind {
		return string(f.Name())
	}
	if f.Name() == "memory_mib" {
		said := units.MiB.Say(units.Room(is.Int()), units.Need(asked.Int()))
		return fmt.Sprintf("%s (%s reserved, %s asked for)", f.Name(), said[0], said[1])
	}
	return fmt.Sprintf("%s (%v reserved, %v asked for)", f.Name(), is.Interface(), asked.Interface())
}
