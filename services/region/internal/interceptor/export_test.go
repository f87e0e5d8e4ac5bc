package interceptor

import "context"

// Answer is what a call that ended with err is answered with.
func Answer(ctx context.Context, err error) error {
	return answer(ctx, &call{}, func(context.Context) error { return err })
}
