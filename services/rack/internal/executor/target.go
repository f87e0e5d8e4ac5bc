package executor

import (
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// destination is what an assignment and a check have in common.
type destination interface {
	GetType() vmhostv1.VmHostType
	GetAddress() string
	GetHostKey() string
	GetSealedCredential() []byte
	GetProject() string
}

// target is where and how to connect, from what a region sent.
func (e *Executor) target(to destination, aad string) (hypervisor.Opener, hypervisor.Target, error) {
	fail := func(class error, op string, err error, hint string) (hypervisor.Opener, hypervisor.Target, error) {
		return nil, hypervisor.Target{}, &hypervisor.Error{Class: class, Op: op, Err: err, Hint: hint}
	}
	parsed, err := hypervisor.ParseAddress(to.GetAddress())
	if err != nil {
		return fail(hypervisor.ErrRefused, "read address", fmt.Errorf("the address %w", err), "correct the host's address")
	}
	kind := to.GetType()
	if kind == vmhostv1.VmHostType_VM_HOST_TYPE_UNSPECIFIED {
		kind = parsed.Type
	}
	opener := e.cfg.Drivers[kind]
	if opener == nil || parsed.Type != kind {
		return fail(hypervisor.ErrUnsupported, "choose driver", fmt.Errorf("this rack has no driver for %s as %s", parsed, kind),
			"enable the driver in the rack's configuration, or give the host to another rack")
	}
	target := hypervisor.Target{Address: parsed, HostKey: to.GetHostKey(), Project: to.GetProject()}
	if sealed := to.GetSealedCredential(); len(sealed) > 0 {
		plain, err := e.cfg.Unseal([]byte(aad), sealed)
		if err != nil {
			return fail(hypervisor.ErrAuth, "unseal credential", err, "set the host's credential again")
		}
		target.Credential = &vmhostv1.Credential{}
		if err := proto.Unmarshal(plain, target.Credential); err != nil {
			return fail(hypervisor.ErrAuth, "unseal credential", errors.New("it is no credential"), "set the host's credential again")
		}
	}
	return opener, target, nil
}
