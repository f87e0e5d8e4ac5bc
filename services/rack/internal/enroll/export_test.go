package enroll

import "context"

// RenewNow renews without waiting.
func RenewNow(ctx context.Context, s *Store, region Region) error { return s.renewOnce(ctx, region) }
