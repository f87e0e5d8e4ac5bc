package ctl

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/ctl/internal/display"
)

func (a *app) operationCommand() *cobra.Command {
	return noun("operation", "Look at, wait for and cancel work under way",
		"Everything that takes time is an operation: it outlives vmhostctl and any\nrestart of a region, and ends exactly once. It is kept for 7 days.",
		a.operationList(), a.operationGet(), a.operationWait(), a.operationCancel())
}

func (a *app) operationList() *cobra.Command {
	var f listFlags
	c := &cobra.Command{
		Use: "list", Short: "List operations, newest first", Args: takes(0),
		Example: "  vmhostctl operation list --filter 'phase = OPERATION_PHASE_RUNNING'",
		RunE: func(c *cobra.Command, _ []string) error {
			ctx, api, err := a.connect(c.Context())
			if err != nil {
				return err
			}
			items, next, err := collect(ctx, f.limit, operationPages(api, f))
			if err != nil {
				return fail(err, "list operations")
			}
			return printList(a, &vmhostv1.ListOperationsResponse{Operations: items, NextPageToken: next}, items,
				(*vmhostv1.Operation).GetName, operationColumns(a.now()))
		},
	}
	f.register(c, `verb = OPERATION_VERB_COMPOSE`, "create_time desc")
	return c
}

func (a *app) operationGet() *cobra.Command {
	return &cobra.Command{
		Use: "get OPERATION", Short: "Show an operation", Args: takes(1), ValidArgsFunction: a.completeArg(completeOperations),
		RunE: func(c *cobra.Command, args []string) error {
			ctx, api, err := a.connect(c.Context())
			if err != nil {
				return err
			}
			op, err := call(ctx, api.operations.GetOperation, &vmhostv1.GetOperationRequest{Name: full(operations, args[0])})
			if err != nil {
				return fail(err, "show operation %s", args[0])
			}
			return a.printOperation(op)
		},
	}
}

func (a *app) operationWait() *cobra.Command {
	var f changeFlags
	c := &cobra.Command{
		Use: "wait OPERATION", Short: "Wait until an operation has ended", Args: takes(1), ValidArgsFunction: a.completeArg(completeOperations),
		Long: "Waits until an operation has ended, and ends with 0 when it ended well, 1 when\nit failed and 3 when it was cancelled or --wait was over first.",
		RunE: func(c *cobra.Command, args []string) error {
			ctx, api, err := a.connect(c.Context())
			if err != nil {
				return err
			}
			op, err := call(ctx, api.operations.GetOperation, &vmhostv1.GetOperationRequest{Name: full(operations, args[0])})
			if err != nil {
				return fail(err, "wait for operation %s", args[0])
			}
			op, err = a.await(ctx, op, operationTitle(op), f.wait)
			if err != nil {
				return err
			}
			return printRow(a, op, operationColumns(a.now()))
		},
	}
	c.Flags().DurationVar(&f.wait, "wait", 0, "wait at most for `DURATION`, such as 90s; 0 means until it ends")
	return c
}

func (a *app) operationCancel() *cobra.Command {
	var f changeFlags
	c := &cobra.Command{
		Use: "cancel OPERATION", Short: "Ask for an operation to end", Args: takes(1), ValidArgsFunction: a.completeArg(completeOperations),
		Long: "Asks for an operation to end, and waits until it has. What was begun is undone\nwhere that is possible; an operation that has ended is not changed.",
		RunE: func(c *cobra.Command, args []string) error {
			ctx, api, err := a.connect(c.Context())
			if err != nil {
				return err
			}
			op, err := change(ctx, api.operations.CancelOperation, &vmhostv1.CancelOperationRequest{Name: full(operations, args[0])})
			if err != nil {
				return fail(err, "cancel operation %s", args[0])
			}
			if !f.async {
				done, err := a.await(ctx, op, operationTitle(op), f.wait)
				if done == nil || !ended(done) { // however it ended, it has
					return err
				}
				op = done
			}
			if err := printRow(a, op, operationColumns(a.now())); err != nil {
				return err
			}
			if ended(op) && op.GetPhase() != vmhostv1.OperationPhase_OPERATION_PHASE_CANCELLED {
				fmt.Fprintf(a.stderr, "%s had ended before it could be cancelled\n", op.GetName())
			}
			return nil
		},
	}
	f.registerPatience(c)
	return c
}

func (a *app) printOperation(op *vmhostv1.Operation) error {
	now := a.now()
	return a.printBlock(op, op.GetName(), func(b *display.Block) {
		b.Add("Operation", display.ID(op.GetName()))
		b.Add("What", verbWord(op)+" "+op.GetTarget())
		b.AddState("Phase", phaseWord(op), op.GetMessage())
		b.Add("Host", display.ID(op.GetVmHost()))
		if !ended(op) {
			b.Add("Progress", fmt.Sprintf("%d%%", op.GetProgressPercent()))
		}
		if op.GetCancelRequested() {
			b.Add("Cancel", "asked for")
		}
		b.Add("Asked by", op.GetPrincipal())
		b.Add("Request id", op.GetRequestId())
		b.Add("Began", display.Time(now, op.GetCreateTime()))
		b.Add("Ended", display.Time(now, op.GetEndTime()))
		if !ended(op) {
			b.Add("Given up", display.Time(now, op.GetDeadlineTime()))
		}
		display.AddTable(b, "Steps", op.GetSteps(), []display.Column[*vmhostv1.OperationStep]{
			{Head: "STEP", Cell: (*vmhostv1.OperationStep).GetVerb},
			{Head: "DONE", State: true, Cell: func(s *vmhostv1.OperationStep) string { return yesNo(s.GetDone()) }},
			{Head: "TOOK", Right: true, Cell: stepTime},
			{Head: "LAST FAILURE", Cell: (*vmhostv1.OperationStep).GetError},
		})
		if e := op.GetError(); e != nil {
			b.AddNotes("Error", []display.Note{{Head: e.GetReason(), Message: e.GetMessage(), Hint: e.GetHint()}})
		}
	})
}

func stepTime(s *vmhostv1.OperationStep) string {
	if !s.GetStartTime().IsValid() || !s.GetEndTime().IsValid() {
		return ""
	}
	return display.Span(s.GetEndTime().AsTime().Sub(s.GetStartTime().AsTime()))
}

func operationColumns(now time.Time) []display.Column[*vmhostv1.Operation] {
	type op = *vmhostv1.Operation
	return []display.Column[op]{
		{Head: "OPERATION", Cell: func(o op) string { return display.ID(o.GetName()) }},
		{Head: "VERB", Cell: verbWord},
		{Head: "TARGET", Cell: op.GetTarget},
		{Head: "HOST", Cell: func(o op) string { return display.ID(o.GetVmHost()) }},
		{Head: "PHASE", State: true, Cell: phaseWord},
		{Head: "TOOK", Right: true, Cell: func(o op) string { return operationTime(now, o) }},
		{Head: "AGE", Right: true, Cell: func(o op) string { return display.Age(now, o.GetCreateTime()) }},
		{Head: "BY", Wide: true, Cell: op.GetPrincipal},
		{Head: "MESSAGE", Wide: true, Text: true, Cell: func(o op) string { return first(o.GetError().GetMessage(), o.GetMessage()) }},
	}
}

func operationTime(now time.Time, o *vmhostv1.Operation) string {
	if !o.GetCreateTime().IsValid() {
		return ""
	}
	end := now
	if o.GetEndTime().IsValid() {
		end = o.GetEndTime().AsTime()
	}
	return display.Span(end.Sub(o.GetCreateTime().AsTime()))
}

// operationTitle is what an operation does, as a phrase: `start machines/…`.
func operationTitle(o *vmhostv1.Operation) string { return verbWord(o) + " " + o.GetTarget() }

func operationPages(api *region, f listFlags) func(context.Context, int32, string) ([]*vmhostv1.Operation, string, error) {
	return func(ctx context.Context, size int32, token string) ([]*vmhostv1.Operation, string, error) {
		r, err := call(ctx, api.operations.ListOperations, &vmhostv1.ListOperationsRequest{PageSize: size, PageToken: token, Filter: f.filter, OrderBy: f.sort})
		return r.GetOperations(), r.GetNextPageToken(), err
	}
}
