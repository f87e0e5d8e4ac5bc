package api

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/policy"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

// Collections of resource names.
const (
	vmHostsCollection       = "vmHosts/"
	machinesCollection      = "machines/"
	operationsCollection    = "operations/"
	zonesCollection         = "zones/"
	resourcePoolsCollection = "resourcePools/"
	racksCollection         = "racks/"
	reservationsCollection  = "reservations/"
	policiesCollection      = policy.Collection
)

// defaultID is the id of the zone and the pool that are always there.
const defaultID = "default"

// idOf is the last part of a resource name whose form the contract has checked.
func idOf(name string) string {
	_, id, _ := strings.Cut(name, "/")
	return id
}

// label is the form of ids that users choose.
var label = regexp.MustCompile(`^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$`)

// reference reads the resource name in a field of a request; what is empty
// stands for the resource named fallback, if any.
func reference(field, value, collection, fallback string) (id string, err error) {
	if value == "" {
		return fallback, nil
	}
	id, ok := strings.CutPrefix(value, collection)
	if !ok || !label.MatchString(id) {
		return "", apierror.InvalidField(field, "must have the form %s{id}", collection)
	}
	return id, nil
}

// mustExist refuses a reference to a resource that is not there, and makes the
// transaction fail if it is removed meanwhile.
func mustExist[T proto.Message](v *store.View, tx *store.Txn, f store.Family[T], field, name string) error {
	if _, ok := f.Get(v, idOf(name)); !ok {
		return apierror.NotFound(name).WithField(field, name+" does not exist")
	}
	tx.IfPresent(f.Key(idOf(name)))
	return nil
}

// checkName refuses a name in a resource to be created that is not its id's.
func checkName(field, name, collection, id string) error {
	if name != "" && name != collection+id {
		return apierror.InvalidField(field, "must be empty or %s%s", collection, id)
	}
	return nil
}

// needName refuses an update that does not name its resource.
func needName(field, name, collection string) error {
	if id, ok := strings.CutPrefix(name, collection); !ok || !label.MatchString(id) {
		return apierror.InvalidField(field, "must have the form %s{id}", collection)
	}
	return nil
}

func alreadyExists(name string) error {
	return apierror.New(codes.AlreadyExists, vmhostv1.ErrorReason_ALREADY_EXISTS, "%s exists", name).
		With("resource", name).WithHint("choose another id, or update the one that exists")
}

// maxNamed bounds how many names an answer lists.
const maxNamed = 20

// inUse names the users of a resource that keep it from being removed.
func inUse(name string, users []string, hint string) error {
	return apierror.New(codes.FailedPrecondition, vmhostv1.ErrorReason_IN_USE, "%s is in use by %s", name, list(users)).
		With("resource", name).With("users", strings.Join(users[:min(len(users), maxNamed)], ",")).
		WithHint("%s", hint)
}

// list is a few names as text.
func list(names []string) string {
	if len(names) <= maxNamed {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:maxNamed], ", "), len(names)-maxNamed)
}

// users are the names of the resources that refer to one.
func users(v *store.View, kind, id string) []string {
	var names []string
	for ref := range store.References.All(v, kind, id) {
		names = append(names, ref)
	}
	slices.Sort(names)
	return names
}
