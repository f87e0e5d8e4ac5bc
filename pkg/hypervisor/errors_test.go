package hypervisor_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
)

func TestEveryClassTravels(t *testing.T) {
	for _, test := range []struct {
		err  error
		want rackv1.ErrorClass
	}{
		{hypervisor.ErrNotFound, rackv1.ErrorClass_ERROR_CLASS_NOT_FOUND},
		{hypervisor.ErrExists, rackv1.ErrorClass_ERROR_CLASS_EXISTS},
		{hypervisor.ErrForeign, rackv1.ErrorClass_ERROR_CLASS_FOREIGN},
		{hypervisor.ErrBusy, rackv1.ErrorClass_ERROR_CLASS_BUSY},
		{hypervisor.ErrUnreachable, rackv1.ErrorClass_ERROR_CLASS_UNREACHABLE},
		{hypervisor.ErrAuth, rackv1.ErrorClass_ERROR_CLASS_AUTH},
		{hypervisor.ErrHostKey, rackv1.ErrorClass_ERROR_CLASS_HOST_KEY},
		{hypervisor.ErrCapacity, rackv1.ErrorClass_ERROR_CLASS_CAPACITY},
		{hypervisor.ErrUnsupported, rackv1.ErrorClass_ERROR_CLASS_UNSUPPORTED},
		{hypervisor.ErrRefused, rackv1.ErrorClass_ERROR_CLASS_REFUSED},
		{hypervisor.ErrTimeout, rackv1.ErrorClass_ERROR_CLASS_TIMEOUT},
		{context.DeadlineExceeded, rackv1.ErrorClass_ERROR_CLASS_TIMEOUT},
		{errors.New("anything else"), rackv1.ErrorClass_ERROR_CLASS_UNSPECIFIED},
	} {
		t.Run(test.err.Error(), func(t *testing.T) {
			for _, err := range []error{
				test.err,
				fmt.Errorf("create machine: %w", test.err),
				&hypervisor.Error{Class: test.err, Op: "create", Err: errors.New("not found, timed out, whatever: text decides nothing")},
			} {
				if got := hypervisor.Class(err); got != test.want {
					t.Errorf("class of %v is %v, want %v", err, got, test.want)
				}
			}
		})
	}
}

func TestP9StepErrorKeepsTheHypervisorsWords(t *testing.T) {
	err := fmt.Errorf("open vmHosts/h1: %w", &hypervisor.Error{
		Class: hypervisor.ErrHostKey, Op: "verify host key", Err: errors.New("its own words"),
		Hint: "look first", PresentedHostKey: "ssh-ed25519 AAAA",
	})
	want := &rackv1.StepError{
		Class: rackv1.ErrorClass_ERROR_CLASS_HOST_KEY, Message: "open vmHosts/h1: verify host key: its own words",
		Hint: "look first", PresentedHostKey: "ssh-ed25519 AAAA",
	}
	if diff := cmp.Diff(want, hypervisor.StepError(err), protocmp.Transform()); diff != "" {
		t.Errorf("step error (-want +got):\n%s", diff)
	}
	if got := hypervisor.StepError(nil); got != nil {
		t.Errorf("step error of success is %v", got)
	}
}
