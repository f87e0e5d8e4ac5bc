package api

import (
	"slices"
	"strings"

	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/vmhost-project/vmhost/pkg/apierror"
)

// fields reads an update mask. mutable are the paths that may be in it, fixed
// those that exist and may not. A path below a mutable one whose parts are not
// listed themselves stands for the whole.
func fields(mask *fieldmaskpb.FieldMask, mutable, fixed []string) (map[string]bool, error) {
	set := map[string]bool{}
	for _, path := range mask.GetPaths() {
		switch {
		// The JSON facade makes the mask from the body, which may hold them.
		case path == "name" || path == "etag":
		case slices.Contains(mutable, path):
			set[path] = true
		case slices.Contains(fixed, path):
			return nil, apierror.InvalidField("update_mask", "names %q, which is never changed by an update", path)
		default:
			whole, _, nested := strings.Cut(path, ".")
			if !nested || !slices.Contains(mutable, whole) || slices.ContainsFunc(mutable, func(m string) bool { return strings.HasPrefix(m, whole+".") }) {
				return nil, apierror.InvalidField("update_mask", "names %q; what can be updated is %s", path, strings.Join(mutable, ", "))
			}
			set[whole] = true
		}
	}
	if len(set) == 0 {
		return nil, apierror.InvalidField("update_mask", "must name the fields to change, of %s", strings.Join(mutable, ", "))
	}
	return set, nil
}
