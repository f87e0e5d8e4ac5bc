package jsonapi

import (
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"google.golang.org/genproto/googleapis/api/annotations"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// binding is how one method's request is spread over path, query and body.
type binding struct {
	pattern string
	input   protoreflect.MessageDescriptor
	// body is the field that is the body, "*" for all, empty for no body.
	body string
	// path are the fields that are in the path, as dotted names.
	path []string
}

// bindings reads the google.api.http rules of the public API, by full method
// name as gRPC writes it.
func bindings() (map[string]*binding, error) {
	pathField := regexp.MustCompile(`\{([a-z0-9_.]+)`)
	all := map[string]*binding{}
	var fault error
	pkg := vmhostv1.File_vmhost_v1_zone_service_proto.Package()
	protoregistry.GlobalFiles.RangeFilesByPackage(pkg, func(file protoreflect.FileDescriptor) bool {
		for i := range file.Services().Len() {
			methods := file.Services().Get(i).Methods()
			for j := range methods.Len() {
				m := methods.Get(j)
				rule, ok := proto.GetExtension(m.Options(), annotations.E_Http).(*annotations.HttpRule)
				if !ok || rule == nil {
					continue
				}
				b := &binding{input: m.Input(), body: rule.GetBody(), pattern: pattern(rule)}
				for _, match := range pathField.FindAllStringSubmatch(b.pattern, -1) {
					b.path = append(b.path, match[1])
				}
				if b.pattern == "" || len(rule.GetAdditionalBindings()) > 0 {
					fault = fmt.Errorf("%s: an HTTP rule of a kind that is not understood", m.FullName())
				}
				all[fmt.Sprintf("/%s/%s", m.Parent().FullName(), m.Name())] = b
			}
		}
		return true
	})
	return all, fault
}

func pattern(rule *annotations.HttpRule) string {
	return rule.GetGet() + rule.GetPost() + rule.GetPatch() + rule.GetDelete() + rule.GetPut()
}

// checkQuery refuses parameters that would be ignored.
func (b *binding) checkQuery(raw string) error {
	if raw == "" {
		return nil
	}
	query, err := url.ParseQuery(raw)
	if err != nil {
		return apierror.InvalidField("query", "cannot be read: %s", err)
	}
	for key := range query {
		field, err := b.queryField(key)
		switch {
		case err != nil:
			return err
		case b.body == "*":
			return apierror.InvalidField(key, "belongs in the body of this method, which has no query parameters")
		case b.body != "" && within(field, b.body):
			return apierror.InvalidField(key, "belongs in the body")
		case slices.ContainsFunc(b.path, func(p string) bool { return within(field, p) || within(p, field) }):
			return apierror.InvalidField(key, "is given by the path")
		}
	}
	return nil
}

// queryField finds the field that a parameter names, as a dotted path.
func (b *binding) queryField(key string) (string, error) {
	name, _, _ := strings.Cut(key, "[") // map entries are written as field[key]
	message := b.input
	var path []string
	for part := range strings.SplitSeq(name, ".") {
		if message == nil {
			return "", apierror.InvalidField(key, "is not a query parameter of this method")
		}
		field := fieldByName(message, part)
		if field == nil {
			return "", apierror.InvalidField(key, "is not a query parameter of this method")
		}
		path = append(path, string(field.Name()))
		message = nil
		if field.Cardinality() != protoreflect.Repeated {
			message = field.Message()
		}
	}
	return strings.Join(path, "."), nil
}

// within says whether a dotted path is another or lies below it.
func within(path, parent string) bool {
	return path == parent || strings.HasPrefix(path, parent+".")
}

// fieldByName finds a field by either of its names.
func fieldByName(m protoreflect.MessageDescriptor, name string) protoreflect.FieldDescriptor {
	if f := m.Fields().ByJSONName(name); f != nil {
		return f
	}
	return m.Fields().ByTextName(name)
}
