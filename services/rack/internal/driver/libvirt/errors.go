package libvirt

import (
	"errors"
	"strings"
	"syscall"

	lv "github.com/digitalocean/go-libvirt"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
)

// classes says which failures are worth trying again. A number that is not here
// means different things in different drivers of libvirt (ErrOperationInvalid is
// "already running" and "pool not active", ErrSystemError is whatever errno says)
// and stays unclassed: tried again until the operation's deadline.
var classes = map[lv.ErrorNumber]error{
	lv.ErrNoDomain:             hypervisor.ErrNotFound,
	lv.ErrNoNetwork:            hypervisor.ErrNotFound,
	lv.ErrNoStoragePool:        hypervisor.ErrNotFound,
	lv.ErrNoStorageVol:         hypervisor.ErrNotFound,
	lv.ErrNoInterface:          hypervisor.ErrNotFound,
	lv.ErrDomExist:             hypervisor.ErrExists,
	lv.ErrStorageVolExist:      hypervisor.ErrExists,
	lv.ErrOperationTimeout:     hypervisor.ErrBusy,
	lv.ErrResourceBusy:         hypervisor.ErrBusy,
	lv.ErrRPC:                  hypervisor.ErrUnreachable,
	lv.ErrGnutlsError:          hypervisor.ErrUnreachable,
	lv.ErrAuthFailed:           hypervisor.ErrAuth,
	lv.ErrAuthCancelled:        hypervisor.ErrAuth,
	lv.ErrAuthUnavailable:      hypervisor.ErrAuth,
	lv.ErrAccessDenied:         hypervisor.ErrAuth,
	lv.ErrOperationDenied:      hypervisor.ErrAuth,
	lv.ErrNoMemory:             hypervisor.ErrCapacity,
	lv.ErrNoSupport:            hypervisor.ErrUnsupported,
	lv.ErrConfigUnsupported:    hypervisor.ErrUnsupported,
	lv.ErrArgumentUnsupported:  hypervisor.ErrUnsupported,
	lv.ErrOperationUnsupported: hypervisor.ErrUnsupported,
	lv.ErrCPUIncompatible:      hypervisor.ErrUnsupported,
	lv.ErrXMLError:             hypervisor.ErrRefused,
	lv.ErrXMLDetail:            hypervisor.ErrRefused,
	lv.ErrXMLInvalidSchema:     hypervisor.ErrRefused,
}

// number is libvirt's error number, ErrOk where err is no answer of libvirt.
func number(err error) lv.ErrorNumber {
	if e, ok := errors.AsType[lv.Error](err); ok {
		return lv.ErrorNumber(e.Code)
	}
	return lv.ErrOk
}

// classify makes err a failure of op. What is classed already keeps its class.
func classify(op string, err error) error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*hypervisor.Error](err); ok {
		return e
	}
	if e, ok := errors.AsType[lv.Error](err); ok {
		// Errors travel as protobuf strings, which must be UTF-8; libvirt passes on
		// whatever file names and programs contain.
		err = lv.Error{Code: e.Code, Message: valid(e.Message)}
	}
	out := &hypervisor.Error{Op: op, Err: err}
	switch n := number(err); {
	case n != lv.ErrOk:
		out.Class = classes[n]
	case errors.Is(err, lv.ErrUnsupported):
		out.Class = hypervisor.ErrUnsupported
	case errors.Is(err, lv.ErrInterrupted), errors.Is(err, syscall.EINVAL):
		// EINVAL is what go-libvirt says of a connection that is gone.
		out.Class = hypervisor.ErrUnreachable
	}
	return out
}

func valid(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }
