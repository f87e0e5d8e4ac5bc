package hypervisor

import (
	"context"
	"errors"
	"fmt"

	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
)

// Classes of failures. Whoever acts on a failure acts on its class, found by
// errors.Is, and never on its text.
var (
	// ErrNotFound: the object is not there.
	ErrNotFound = errors.New("not found")
	// ErrExists: an object of that name is there.
	ErrExists = errors.New("already exists")
	// ErrForeign: an object of that name or id is there and is not ours.
	ErrForeign = errors.New("not ours")
	// ErrBusy: the hypervisor is busy with the object; later it may work.
	ErrBusy = errors.New("busy")
	// ErrUnreachable: the hypervisor is not reached, or the connection was lost.
	ErrUnreachable = errors.New("unreachable")
	// ErrAuth: the credential was refused.
	ErrAuth = errors.New("credential refused")
	// ErrHostKey: the presented host key is not the confirmed one.
	ErrHostKey = errors.New("host key changed")
	// ErrCapacity: the hypervisor ran out of a resource.
	ErrCapacity = errors.New("out of capacity")
	// ErrUnsupported: the driver or the hypervisor cannot do this.
	ErrUnsupported = errors.New("unsupported")
	// ErrRefused: the hypervisor refused for good.
	ErrRefused = errors.New("refused")
	// ErrTimeout: the call did not end in its time; what it did is not known.
	ErrTimeout = errors.New("timed out")
)

// ErrFenced is no class but the cause of a context that ends because somebody else
// drives the host from now on: what was begun is not undone.
var ErrFenced = errors.New("the host is driven by somebody else")

var classes = []struct {
	err   error
	class rackv1.ErrorClass
}{
	{ErrNotFound, rackv1.ErrorClass_ERROR_CLASS_NOT_FOUND},
	{ErrExists, rackv1.ErrorClass_ERROR_CLASS_EXISTS},
	{ErrForeign, rackv1.ErrorClass_ERROR_CLASS_FOREIGN},
	{ErrBusy, rackv1.ErrorClass_ERROR_CLASS_BUSY},
	{ErrUnreachable, rackv1.ErrorClass_ERROR_CLASS_UNREACHABLE},
	{ErrAuth, rackv1.ErrorClass_ERROR_CLASS_AUTH},
	{ErrHostKey, rackv1.ErrorClass_ERROR_CLASS_HOST_KEY},
	{ErrCapacity, rackv1.ErrorClass_ERROR_CLASS_CAPACITY},
	{ErrUnsupported, rackv1.ErrorClass_ERROR_CLASS_UNSUPPORTED},
	{ErrRefused, rackv1.ErrorClass_ERROR_CLASS_REFUSED},
	{ErrTimeout, rackv1.ErrorClass_ERROR_CLASS_TIMEOUT},
}

// Error is a classed failure of a hypervisor.
type Error struct {
	// Class is one of the sentinels of this package.
	Class error
	// Op is what was being done, a verb phrase such as "define domain".
	Op string
	// Err is the cause with the hypervisor's own words.
	Err error
	// Hint says what to do, where the driver knows.
	Hint string
	// PresentedHostKey is the key that was presented, for ErrHostKey.
	PresentedHostKey string
	// AtDestination says of a move that its destination is at fault: another one may
	// do.
	AtDestination bool
	// NeedsOffline says of a move that it is refused only because the machine would
	// have to be stopped, which was not allowed.
	NeedsOffline bool
}

// Error is Op and the hypervisor's words.
func (e *Error) Error() string {
	if e.Err == nil {
		return fmt.Sprintf("%s: %v", e.Op, e.Class)
	}
	return fmt.Sprintf("%s: %v", e.Op, e.Err)
}

// Unwrap lets errors.Is find the class and the cause.
func (e *Error) Unwrap() []error { return []error{e.Class, e.Err} }

// Class is the wire form of the failure's class.
func Class(err error) rackv1.ErrorClass {
	for _, c := range classes {
		if errors.Is(err, c.err) {
			return c.class
		}
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return rackv1.ErrorClass_ERROR_CLASS_TIMEOUT
	}
	return rackv1.ErrorClass_ERROR_CLASS_UNSPECIFIED
}

// StepError is the wire form of a failure; nil for nil.
func StepError(err error) *rackv1.StepError {
	if err == nil {
		return nil
	}
	out := &rackv1.StepError{Class: Class(err), Message: err.Error()}
	if e, ok := errors.AsType[*Error](err); ok {
		out.Hint, out.PresentedHostKey, out.NeedsOffline = e.Hint, e.PresentedHostKey, e.NeedsOffline
	}
	return out
}
