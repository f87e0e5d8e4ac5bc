package ledger

import (
	"context"
	"errors"
	"strconv"

	"google.golang.org/grpc/codes"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/placement"
)

// maxNamed is how many hosts a NO_CAPACITY error names; a plan names more.
const maxNamed = 5

// noCapacity says per host which resource, limit and ratio refused.
func noCapacity(plan *placement.Plan) *apierror.Error {
	e := apierror.New(codes.ResourceExhausted, vmhostv1.ErrorReason_NO_CAPACITY, "%s", plan.Summary()).
		With("considered", strconv.Itoa(plan.Considered)).
		WithHint("%s", advice(plan, "a dry run"))
	for filter, n := range plan.RefusedCounts {
		e = e.With("refused_"+string(filter), strconv.Itoa(n))
	}
	for i, r := range plan.Refusals[:min(len(plan.Refusals), maxNamed)] {
		e = e.With("refusal_"+strconv.Itoa(i+1), r.Parameters())
	}
	return e
}

// advice is what to do about a plan that found no host, and what shows every host
// to who saw none.
func advice(plan *placement.Plan, dryRun string) string {
	if plan.Considered == 0 {
		return plan.Advice()
	}
	return plan.Advice() + "; " + dryRun + " explains every host"
}

// unavailable says that the store did not answer, and that it is not known
// whether anything was done.
func unavailable(err error) error {
	if errors.Is(err, context.Canceled) {
		return err
	}
	return apierror.New(codes.Unavailable, vmhostv1.ErrorReason_STORE_UNAVAILABLE, "the state store does not answer: %w", err).
		WithHint("send the same request with the same request_id again")
}

func hostnameTaken(pool, hostname string) error {
	return apierror.New(codes.AlreadyExists, vmhostv1.ErrorReason_ALREADY_EXISTS,
		"a machine named %s exists in resource pool %s", hostname, pool).
		With("hostname", hostname).With("resource_pool", "resourcePools/"+pool).
		WithField("hostname", "is taken").WithHint("choose another hostname, or leave it out and have one made up")
}
