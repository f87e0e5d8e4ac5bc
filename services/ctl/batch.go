package ctl

import (
	"google.golang.org/grpc/codes"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/ctl/internal/display"
)

// printResults shows what became of each machine of many.
func (a *app) printResults(results []*vmhostv1.BatchResult) error {
	type result = *vmhostv1.BatchResult
	return printTable(a, results, []display.Column[result]{
		{Head: "MACHINE", Cell: func(r result) string { return display.ID(r.GetName()) }},
		{Head: "RESULT", State: true, Cell: resultState},
		{Head: "OPERATION", Wide: true, Cell: func(r result) string { return display.ID(r.GetOperation().GetName()) }},
		{Head: "WHY", Cell: func(r result) string { return resultError(r).GetMessage() }},
		{Head: "TO DO", Cell: func(r result) string { return resultError(r).GetHint() }},
	})
}

func resultState(r *vmhostv1.BatchResult) string {
	if r.GetOperation() == nil {
		return "refused"
	}
	return display.Word(r.GetOperation().GetPhase(), "OPERATION_PHASE_")
}

func resultError(r *vmhostv1.BatchResult) *vmhostv1.OperationError {
	if r.GetError() != nil {
		return r.GetError()
	}
	return r.GetOperation().GetError()
}

// failedResults is an error when some of many did not end well.
func failedResults(word string, results []*vmhostv1.BatchResult) error {
	failed := 0
	for _, r := range results {
		if resultError(r) != nil {
			failed++
		}
	}
	if failed == 0 {
		return nil
	}
	e := apierror.New(codes.FailedPrecondition, vmhostv1.ErrorReason_ERROR_REASON_UNSPECIFIED, "%d of %s failed", failed, count(len(results), "machine")).
		WithHint("each says why above; the others were done")
	return &failure{what: "cannot " + word + " all machines", err: e, code: exitFailed}
}
