package lxd

import (
	"context"
	"errors"
	"net/http"
	"strings"

	lxdapi "github.com/canonical/lxd/shared/api"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
)

// statuses says what LXD's answers by status mean. 400 and 500 are not here:
// LXD answers nearly everything with them, see words.
var statuses = map[int]error{
	http.StatusNotFound:            hypervisor.ErrNotFound,
	http.StatusConflict:            hypervisor.ErrExists,
	http.StatusForbidden:           hypervisor.ErrRefused,
	http.StatusUnauthorized:        hypervisor.ErrAuth,
	http.StatusPreconditionFailed:  hypervisor.ErrBusy,
	http.StatusLocked:              hypervisor.ErrBusy,
	http.StatusServiceUnavailable:  hypervisor.ErrBusy,
	http.StatusInsufficientStorage: hypervisor.ErrCapacity,
	http.StatusNotImplemented:      hypervisor.ErrUnsupported,
}

// words tells apart what LXD says only in words: failures of operations carry no
// number at all, and requests that cannot be done now or ever carry the same. A
// failure that is not here is unclassed: tried again until its operation's
// deadline. The first that is found counts.
var words = []struct {
	text  string
	class error
}{
	{"is not supported on this server", hypervisor.ErrUnsupported},
	{"kvm support is missing", hypervisor.ErrUnsupported},
	{"vhost_vsock kernel module not loaded", hypervisor.ErrUnsupported},
	{"missing the required", hypervisor.ErrUnsupported},
	{"no space left on device", hypervisor.ErrCapacity},
	{"disk quota exceeded", hypervisor.ErrCapacity},
	{"cannot allocate memory", hypervisor.ErrCapacity},
	{"insufficient free space", hypervisor.ErrCapacity},
	{"reached maximum number of instances", hypervisor.ErrCapacity},
	{"reached maximum aggregate value", hypervisor.ErrCapacity},
	{"no available virtual function", hypervisor.ErrCapacity},
	{"all virtual functions", hypervisor.ErrCapacity},
	{"is busy running", hypervisor.ErrBusy},
	{"busy running", hypervisor.ErrBusy},
	{"device or resource busy", hypervisor.ErrBusy},
	{"precondition failed", hypervisor.ErrBusy},
	{"this \"instances\" entry already exists", hypervisor.ErrExists},
	{"already exists", hypervisor.ErrExists},
	{"network not found", hypervisor.ErrNotFound},
	{"storage pool not found", hypervisor.ErrNotFound},
	{"image not found", hypervisor.ErrNotFound},
	{"instance not found", hypervisor.ErrNotFound},
	{"doesn't exist", hypervisor.ErrNotFound},
	{"not authorized", hypervisor.ErrRefused},
	{"instance is protected", hypervisor.ErrRefused},
	{"invalid devices:", hypervisor.ErrRefused},
	{"invalid config:", hypervisor.ErrRefused},
	{"invalid instance name", hypervisor.ErrRefused},
}

// classify makes err a failure of op. What is classed already keeps its class.
func classify(op string, err error) error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*hypervisor.Error](err); ok {
		return e
	}
	out := &hypervisor.Error{Op: op, Err: valid(err)}
	status, answered := lxdapi.StatusErrorMatch(err)
	if class, known := statuses[status]; answered && known {
		out.Class = class
		return out
	}
	out.Class = classOfWords(err.Error())
	switch {
	case out.Class != nil, answered:
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		out.Class = hypervisor.ErrTimeout
	default:
		// No answer of LXD and nothing that we said: the network.
		out.Class = hypervisor.ErrUnreachable
	}
	return out
}

func classOfWords(text string) error {
	text = strings.ToLower(text)
	for _, w := range words {
		if strings.Contains(text, w.text) {
			return w.class
		}
	}
	return nil
}

// failed is what an operation of LXD that ended badly says.
func failed(op, text string) error {
	text = strings.ToValidUTF8(text, "\uFFFD")
	return &hypervisor.Error{Class: classOfWords(text), Op: op, Err: errors.New(text)}
}

// valid makes words that travel as protobuf strings UTF-8.
func valid(err error) error {
	if text := strings.ToValidUTF8(err.Error(), "\uFFFD"); text != err.Error() {
		return errors.New(text)
	}
	return err
}

// unknown says that it is not known what a call did.
func unknown(err error) bool {
	return errors.Is(err, hypervisor.ErrUnreachable) || errors.Is(err, hypervisor.ErrTimeout)
}
