package policy

import (
	"strings"
	"sync"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

// Policy is a policy as placement needs it. It must not be modified.
type Policy struct {
	// ID is its id.
	ID string
	// Revision is that of its record, 0 of a preset: what is decided by it holds
	// only as long as that is the record's.
	Revision int64
	// Weights say how much each score counts.
	Weights *vmhostv1.PlacementWeights
	// Predicate is nil when every host passes.
	Predicate *Predicate
}

// Set has the policies of views, compiled.
type Set struct {
	compiler func() (*Compiler, error) // made when the first predicate comes
	presets  map[string]*Policy
	mu       sync.Mutex
	byID     map[string]*Policy
}

// NewSet makes an empty one.
func NewSet() *Set {
	s := &Set{compiler: sync.OnceValues(NewCompiler), presets: map[string]*Policy{}, byID: map[string]*Policy{}}
	for _, p := range Presets() {
		id := strings.TrimPrefix(p.GetName(), Collection)
		s.presets[id] = &Policy{ID: id, Weights: p.GetWeights()}
	}
	return s
}

// Compile is Compiler.Compile.
func (s *Set) Compile(fieldName, text string) (*Predicate, error) {
	c, err := s.compiler()
	if err != nil {
		return nil, err
	}
	return c.Compile(fieldName, text)
}

// Check is Compiler.Check.
func (s *Set) Check(fieldName, text string) error {
	c, err := s.compiler()
	if err != nil {
		return err
	}
	return c.Check(fieldName, text)
}

// At is the policy that a request's field names, as it is in the view; the field
// is empty for the default. Errors: INVALID_FIELD, NOT_FOUND.
func (s *Set) At(v *store.View, fieldName, name string) (*Policy, error) {
	id, err := ID(fieldName, name)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	record, ok := store.Policies.Get(v, id)
	if !ok {
		delete(s.byID, id)
		if p := s.presets[id]; p != nil {
			return p, nil
		}
		return nil, apierror.NotFound(Collection+id).WithField(fieldName, "does not exist").
			WithHint("`vmhostctl placement-policy list` shows those there are")
	}
	if known := s.byID[id]; known != nil && known.Revision == record.Revision {
		return known, nil
	}
	r := record.Value.GetResource()
	predicate, err := s.Compile(fieldName, r.GetPredicate())
	if err != nil {
		// It compiled when it was recorded: by a version that knew more.
		return nil, err
	}
	p := &Policy{ID: id, Revision: record.Revision, Weights: r.GetWeights(), Predicate: predicate}
	s.byID[id] = p
	return p, nil
}
