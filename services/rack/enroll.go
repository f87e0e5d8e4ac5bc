package rack

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/vmhost-project/vmhost/pkg/backoff"
	"github.com/vmhost-project/vmhost/pkg/lifecycle"
	"github.com/vmhost-project/vmhost/pkg/pki"
	"github.com/vmhost-project/vmhost/services/rack/internal/enroll"
	"github.com/vmhost-project/vmhost/services/rack/internal/session"
)

// enrollLimit bounds one try to enrol.
const enrollLimit = 20 * time.Second

// keepSession enrols where there is no identity, keeps a session and does what
// the region's typed reasons say.
func (r *Rack) keepSession(ctx context.Context) error {
	if err := r.dropForeignIdentity(ctx); err != nil {
		return err
	}
	for {
		if !r.identity.Enrolled() {
			if err := r.join(ctx); err != nil || ctx.Err() != nil {
				return err
			}
		}
		err := r.sessionAndRenewal(ctx)
		switch {
		case errors.Is(err, session.ErrRevoked):
			return errors.Join(err, r.identity.Wipe())
		case errors.Is(err, session.ErrMustEnroll):
			if _, tokenErr := r.token(); tokenErr != nil && r.joinToken == nil {
				return fmt.Errorf("%w: %w", err, tokenErr)
			}
			r.log.WarnContext(ctx, "enrolling again", "error", err)
			if err := r.identity.Wipe(); err != nil {
				return err
			}
		default:
			return err
		}
	}
}

// sessionAndRenewal runs the session, and the renewal beside it.
func (r *Rack) sessionAndRenewal(ctx context.Context) error {
	group := lifecycle.New(r.log)
	inner, cancel := context.WithCancel(ctx)
	defer cancel()
	var err error
	group.Go("session", func(ctx context.Context) error {
		defer cancel() // the renewal ends with the session
		err = r.session.Run(ctx)
		return nil
	})
	group.Go("renewal", func(ctx context.Context) error { return r.identity.Renew(ctx, r.session, r.log) })
	return errors.Join(group.Run(inner), err)
}

// dropForeignIdentity wipes the identity of another deployment when the operator
// gave a join token of this one.
func (r *Rack) dropForeignIdentity(ctx context.Context) error {
	token, err := r.token()
	if err != nil || !r.identity.Enrolled() || r.identity.Trusts(token) {
		return nil //nolint:nilerr // a token is needed only where there is no identity
	}
	r.log.WarnContext(ctx, "the join token is of another deployment than the identity, enrolling there")
	return r.identity.Wipe()
}

// token is the configured join token.
func (r *Rack) token() (pki.JoinToken, error) {
	text, err := r.cfg.Token()
	if err != nil {
		return pki.JoinToken{}, err
	}
	return pki.ParseJoinToken(text)
}

// Token is the configured join token, read from its file if it is in one.
func (c *Config) Token() (string, error) {
	text := c.JoinToken
	if c.JoinTokenFile != "" {
		raw, err := os.ReadFile(c.JoinTokenFile)
		if err != nil {
			return "", fmt.Errorf("read join token: %w", err)
		}
		text = strings.TrimSpace(string(raw))
	}
	if text == "" {
		return "", errors.New("no join token is configured; make one with `vmhostctl rack token create` and set join_token_file to a file with it, or run `vmhost-rack enroll TOKEN`")
	}
	return text, nil
}

// freshToken is a join token to enrol with now.
func (r *Rack) freshToken(ctx context.Context) (pki.JoinToken, error) {
	if r.joinToken == nil {
		return r.token()
	}
	text, err := r.joinToken(ctx)
	if err != nil {
		return pki.JoinToken{}, fmt.Errorf("get a join token: %w", err)
	}
	return pki.ParseJoinToken(text)
}

// join enrols, for as long as trying is of use.
func (r *Rack) join(ctx context.Context) error {
	token, err := r.freshToken(ctx)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNotEnrolled, err)
	}
	var wait backoff.Backoff
	for {
		limited, cancel := context.WithTimeout(ctx, enrollLimit)
		err := r.identity.Enroll(limited, token)
		cancel()
		if err == nil {
			r.log.InfoContext(ctx, "enrolled", "rack", r.identity.Rack(), "expire_time", r.identity.Expiry())
			return nil
		}
		if ctx.Err() != nil {
			return nil //nolint:nilerr // the end of ctx is the end of the work
		}
		if !enroll.Retryable(err) {
			return err
		}
		pause := wait.Next()
		r.log.WarnContext(ctx, "could not enroll, will try again", "after", pause, "error", err)
		if backoff.Wait(ctx, pause) != nil {
			return nil //nolint:nilerr // the end of ctx is the end of the work
		}
	}
}

// Enroll trades a join token for an identity in the data folder, once, and
// returns the rack's name. A rack that runs already uses the identity after its
// next start.
func Enroll(ctx context.Context, cfg Config, token pki.JoinToken) (name string, err error) {
	if err := os.MkdirAll(cfg.DataDir, 0o700); err != nil {
		return "", fmt.Errorf("make data folder: %w", err)
	}
	identity, err := enroll.Load(cfg.DataDir)
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, enrollLimit)
	defer cancel()
	if err := identity.Enroll(ctx, token); err != nil {
		return "", err
	}
	return identity.Rack(), nil
}
