package ctl

import (
	"context"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	"github.com/vmhost-project/vmhost/pkg/backoff"
)

const (
	// callTime bounds one call: none of them waits for a hypervisor.
	callTime = 30 * time.Second
	// tries is how often a change is sent. With the same request id each time
	// it is made once.
	tries = 4
)

type rpc[Req, Resp any] = func(context.Context, Req, ...grpc.CallOption) (Resp, error)

// call makes one call that changes nothing.
func call[Req, Resp any](ctx context.Context, method rpc[Req, Resp], request Req) (Resp, error) {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	return method(ctx, request)
}

// change makes a call that carries a request id, and repeats it when it is not
// known whether the region has it, or when others wrote first.
func change[Req, Resp any](ctx context.Context, method rpc[Req, Resp], request Req) (Resp, error) {
	wait := backoff.Backoff{Min: 200 * time.Millisecond, Max: 2 * time.Second}
	for i := 1; ; i++ {
		response, err := call(ctx, method, request)
		if err == nil || i == tries || ctx.Err() != nil || !repeatable(err) {
			return response, err
		}
		if backoff.Wait(ctx, wait.Next()) != nil {
			return response, err
		}
	}
}

func repeatable(err error) bool {
	switch apierror.FromStatus(err).Code {
	case codes.Unavailable, codes.DeadlineExceeded, codes.Aborted:
		return true
	default:
		return false
	}
}

// changeFlags are those of every command that changes something.
type changeFlags struct {
	requestID        string
	dryRun, detailed bool
	async            bool
	wait             time.Duration
}

// register adds the flags of a change that is done when its call has answered.
func (f *changeFlags) register(c *cobra.Command) {
	c.Flags().StringVar(&f.requestID, "request-id", "", "`UUID` that makes repeating the command safe; one is made up")
	c.Flags().BoolVar(&f.dryRun, "dry-run", false, "only check; change nothing")
	c.Flags().BoolVar(&f.detailed, "detailed-exitcode", false, "with --dry-run: end with 10 when the change would be made")
}

// registerWait adds the flags of a change that takes time as well.
func (f *changeFlags) registerWait(c *cobra.Command) {
	f.register(c)
	f.registerPatience(c)
}

func (f *changeFlags) registerPatience(c *cobra.Command) {
	c.Flags().BoolVar(&f.async, "async", false, "do not wait for the end")
	c.Flags().DurationVar(&f.wait, "wait", 0, "wait at most for `DURATION`, such as 90s; 0 means until it ends")
	c.MarkFlagsMutuallyExclusive("async", "wait")
}

// id is the request id of this run of the command.
func (f *changeFlags) id() string {
	if f.requestID == "" {
		f.requestID = uuid.NewString()
	}
	return f.requestID
}

// checked is how a dry run ends: it is never nil, so that nothing follows it.
func (f *changeFlags) checked() error {
	if f.detailed {
		return quietError{exitChanges}
	}
	return quietError{exitOK}
}
