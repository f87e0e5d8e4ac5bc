package policy

import (
	"strings"

	"github.com/vmhost-project/vmhost/pkg/apierror"
)

// ID reads the resource name of a policy in a field; an empty one stands for the
// default.
func ID(fieldName, name string) (string, error) {
	if name == "" {
		return Default, nil
	}
	id, ok := strings.CutPrefix(name, Collection)
	if !ok || id == "" || strings.Contains(id, "/") {
		return "", apierror.InvalidField(fieldName, "must have the form %s{id}", Collection)
	}
	return id, nil
}
