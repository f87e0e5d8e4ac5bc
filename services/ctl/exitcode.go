package ctl

import (
	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
)

// What vmhostctl ends with. Scripts rely on these; exitCodeHelp is their
// documentation.
const (
	exitOK               = 0
	exitFailed           = 1
	exitUsage            = 2
	exitStillRunning     = 3
	exitUnauthenticated  = 4
	exitPermissionDenied = 5
	exitNotFound         = 6
	exitConflict         = 7
	exitNoCapacity       = 8
	exitUnavailable      = 9
	exitChanges          = 10
	exitInterrupted      = 130
)

const exitCodeHelp = `What vmhostctl ends with:

    0  it worked
    1  the operation ended and had failed, or some of many did, or vmhost itself
       failed
    2  the command line or a field of the request is not valid, or a question
       was not answered with yes
    3  the operation was cancelled, or waiting for it ended before it did;
       it is named on stderr
    4  no valid token
    5  the token's role does not allow this
    6  the named resource does not exist
    7  a conflict: it exists already, is in use or busy, has changed since,
       or is not in a state that allows this
    8  no capacity: no host fits, or the quota of the pool is used up
    9  the region is not reached or did not answer in time
   10  --dry-run with --detailed-exitcode: the change would be made
  130  interrupted by Ctrl-C; what had been asked for goes on

Errors are on stderr, in three lines: what failed, why, and what to do, with
what to type below where that takes more than a few words. With -o json a line
after them holds the same as a google.rpc.Status in JSON.
`

func exitCodesTopic() *cobra.Command {
	// Without Run it is a topic of `help` and no command.
	return &cobra.Command{Use: "exit-codes", Short: "What vmhostctl ends with", Long: exitCodeHelp}
}

func exitCode(code codes.Code) int {
	switch code {
	case codes.OK:
		return exitOK
	case codes.InvalidArgument, codes.OutOfRange:
		return exitUsage
	case codes.Canceled:
		return exitStillRunning
	case codes.Unauthenticated:
		return exitUnauthenticated
	case codes.PermissionDenied:
		return exitPermissionDenied
	case codes.NotFound:
		return exitNotFound
	case codes.AlreadyExists, codes.FailedPrecondition, codes.Aborted:
		return exitConflict
	case codes.ResourceExhausted:
		return exitNoCapacity
	case codes.Unavailable, codes.DeadlineExceeded:
		return exitUnavailable
	default:
		return exitFailed
	}
}
