package ctl

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"

	"github.com/spf13/pflag"
	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/grpc/codes"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/ctl/internal/display"
)

// failure is an error as the user sees it.
type failure struct {
	what string          // what was not done, with the object's name: `cannot start machine web-1`
	err  *apierror.Error // why
	code int             // what to end with
	// commands are what to type, one line each, below what to do.
	commands []string
}

func (f *failure) Error() string { return f.what + ": " + f.err.Message }

func (f *failure) Unwrap() error { return f.err }

// quietError ends with a code when everything has been said.
type quietError struct{ code int }

func (e quietError) Error() string { return fmt.Sprintf("exit code %d", e.code) }

// errInterrupted is why a context ends after Ctrl-C.
var errInterrupted = errors.New("interrupted")

// fail says what was not done because of err. An error that says so already
// stays as it is.
func fail(err error, what string, args ...any) error {
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*failure](err); ok {
		return err
	}
	if _, ok := errors.AsType[quietError](err); ok || errors.Is(err, errInterrupted) {
		return err
	}
	e := apierror.FromStatus(err)
	return &failure{what: "cannot " + fmt.Sprintf(what, args...), err: e, code: exitCode(e.Code)}
}

// usage says that the command line is not valid.
func usage(hint, format string, args ...any) error {
	e := apierror.New(codes.InvalidArgument, vmhostv1.ErrorReason_ERROR_REASON_UNSPECIFIED, format, args...).WithHint("%s", hint)
	return &failure{what: "the command line is not valid", err: e, code: exitUsage}
}

// local is a failure on the user's machine, such as a file that cannot be read.
func local(err error, hint, what string, args ...any) error {
	e := &apierror.Error{Code: codes.FailedPrecondition, Message: err.Error(), Hint: hint}
	return &failure{what: "cannot " + fmt.Sprintf(what, args...), err: e, code: exitUsage}
}

// report writes a failure: what, why, and what to do; with -o json the
// status after that, on one line.
func (a *app) report(err error) int {
	if quiet, ok := errors.AsType[quietError](err); ok {
		return quiet.code
	}
	if errors.Is(err, errInterrupted) {
		fmt.Fprintln(a.stderr, "interrupted")
		return exitInterrupted
	}
	f, ok := errors.AsType[*failure](err)
	if broken, bad := errors.AsType[*fs.PathError](err); bad && !ok {
		e := &apierror.Error{Code: codes.Unknown, Message: broken.Error(), Hint: "make room for the output, or send it elsewhere"}
		f, ok = &failure{what: "cannot write the output", err: e, code: exitFailed}, true
	}
	if bad, is := errors.AsType[*pflag.InvalidValueError](err); is && !ok {
		err = a.badValue(bad)
		f, ok = errors.AsType[*failure](err)
	}
	if !ok { // cobra's own: unknown flags, wrong number of arguments
		f, _ = errors.AsType[*failure](usage(a.helpHint(), "%s", err))
	}
	a.writeFailure(a.stderr, f)
	return f.code
}

func (a *app) writeFailure(w io.Writer, f *failure) {
	p := a.errPalette()
	fmt.Fprintf(w, "%s %s\n", p.Bad("error:"), display.Clean(f.what))
	why := display.Clean(f.err.Message)
	var about []string
	switch {
	case f.err.Reason != vmhostv1.ErrorReason_ERROR_REASON_UNSPECIFIED:
		about = append(about, f.err.Reason.String())
	case f.err.Code == codes.InvalidArgument, f.err.Code == codes.FailedPrecondition, f.err.Code == codes.Unknown:
		// Found here, where the code says no more than the words.
	default:
		about = append(about, code.Code(f.err.Code).String())
	}
	for _, v := range f.err.Fields {
		if field := "field " + display.Clean(v.GetField()); !slices.Contains(about, field) { // more may be wrong with one
			about = append(about, field)
		}
	}
	if len(about) > 0 {
		why += " (" + strings.Join(about, ", ") + ")"
	}
	fmt.Fprintf(w, "  why: %s\n", why)
	fmt.Fprintf(w, "  do: %s\n", display.Clean(a.hint(f)))
	for _, line := range f.commands {
		fmt.Fprintf(w, "    %s\n", display.Clean(line))
	}
	if a.flags.verbose {
		fmt.Fprintf(w, "  request: %s\n", display.Clean(a.requestOf(f)))
	}
	if a.flags.output == outputJSON {
		// A status that cannot be written has been said in words already.
		_ = display.JSONLine(w, f.err.GRPCStatus().Proto())
	}
}

// requestOf is what to look for in the region's log.
func (a *app) requestOf(f *failure) string {
	if id := f.err.Metadata["request_id"]; id != "" {
		return id
	}
	return a.trace
}

// hint is what to do: the region's words, else ours for the reason.
func (a *app) hint(f *failure) string {
	// How a token is sent is our business, not the user's.
	if f.err.Hint != "" && f.err.Code != codes.Unauthenticated {
		return f.err.Hint
	}
	switch f.err.Reason {
	case vmhostv1.ErrorReason_NO_CAPACITY:
		return "see why each host was refused with `vmhostctl machine compose … --dry-run`"
	case vmhostv1.ErrorReason_ETAG_MISMATCH:
		return "look at it again and repeat the change"
	case vmhostv1.ErrorReason_MACHINE_BUSY:
		return "wait for the operation named above: `vmhostctl operation list`"
	case vmhostv1.ErrorReason_HOST_UNREACHABLE, vmhostv1.ErrorReason_HOST_AUTH_FAILED, vmhostv1.ErrorReason_HOST_KEY_CHANGED:
		return "see what is wrong with the host: `vmhostctl vm-host get NAME`"
	case vmhostv1.ErrorReason_NO_RACK:
		return "see which racks are connected: `vmhostctl rack list`"
	case vmhostv1.ErrorReason_FOREIGN_OBJECT:
		return "vmhost never touches what it did not make; choose another name, or take the machine over: `vmhostctl machine adopt`"
	case vmhostv1.ErrorReason_QUOTA_EXCEEDED:
		return "ask for less, or raise the quota: `vmhostctl pool get NAME`, `vmhostctl pool update NAME --quota …`"
	case vmhostv1.ErrorReason_CONSOLE_BUSY:
		return "take it from whoever has it: `vmhostctl machine console MACHINE --force`"
	case vmhostv1.ErrorReason_MACHINE_MISSING:
		return "see what the host has now: `vmhostctl vm-host refresh NAME`"
	case vmhostv1.ErrorReason_WRONG_STATE:
		return "see how it stands now: `get` shows it, with the conditions there are"
	case vmhostv1.ErrorReason_UNSUPPORTED:
		if f.err.Code != codes.Unimplemented {
			return "see what the host can do: `vmhostctl vm-host get NAME`"
		}
		return a.hintOfCode(f.err)
	case vmhostv1.ErrorReason_RESUME_TOKEN_EXPIRED:
		return "see what happened with `vmhostctl event list`, then watch without --resume-token"
	case vmhostv1.ErrorReason_REQUEST_ID_REUSED:
		return "leave --request-id out, or take another UUID"
	default:
		return a.hintOfCode(f.err)
	}
}

func (a *app) hintOfCode(e *apierror.Error) string {
	switch e.Code {
	case codes.Unauthenticated:
		return "give a valid token: `vmhostctl context set NAME --token-file FILE`, or VMHOSTCTL_TOKEN_FILE"
	case codes.PermissionDenied:
		return "ask an administrator for a token with a role that allows this"
	case codes.NotFound:
		return "see what there is: `vmhostctl " + nounOf(e.Metadata["resource"]) + " list`"
	case codes.Unavailable, codes.DeadlineExceeded:
		return "check that the region runs, and the endpoint and CA in use: `vmhostctl context show`"
	case codes.ResourceExhausted:
		return "try again later, or ask for less"
	case codes.InvalidArgument, codes.OutOfRange:
		return a.helpHint()
	case codes.AlreadyExists:
		return "choose another name"
	case codes.Aborted:
		return "try again"
	case codes.Unimplemented:
		return "the region is older than this vmhostctl: compare `vmhostctl version`"
	default:
		return "look into the region's log; run again with -v to see the id to look for"
	}
}

// nounOf is the command for a kind of resource.
func nounOf(name string) string {
	collection, _, _ := strings.Cut(name, "/")
	switch collection {
	case vmHosts:
		return "vm-host"
	case operations:
		return "operation"
	case zones:
		return "zone"
	case resourcePools:
		return "pool"
	case racks:
		return "rack"
	case "join token":
		return "rack token"
	default:
		return "machine"
	}
}
