package ctl_test

import (
	"context"
	"encoding/pem"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	"github.com/vmhost-project/vmhost/pkg/pki"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/ctl"
	"github.com/vmhost-project/vmhost/services/ctl/clictx"
)

// noRaceSleep is for GORACE: under the race detector every process would end
// with a second of sleep, and these tests run hundreds.
const noRaceSleep = "atexit_sleep_ms=0"

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"vmhostctl": func() {
		//nolint:forbidigo // here the test binary is vmhostctl
		os.Exit(ctl.Run(context.Background(), os.Args[1:], os.Environ(), os.Stdin, os.Stdout, os.Stderr))
	}})
}

// Each script talks to a fake region of its own. Besides testscript's commands
// there are:
//
//	exits CODE ARGS…             run vmhostctl and compare what it ends with
//	fake fault METHOD CODE REASON MESSAGE [HINT [twice]]   the next call of METHOD fails so,
//	                             where a field is wrong in one way or two
//	fake set KEY VALUE           see setFake
//	received METHOD FILE         write the requests of METHOD to FILE, one per line
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		UpdateScripts:       os.Getenv("UPDATE_SCRIPTS") != "",
		Setup: func(env *testscript.Env) error {
			f := newFakeRegion(env.T().(testing.TB), env.WorkDir)
			env.Values["fake"] = f
			config := filepath.Join(env.WorkDir, "home", ".config", "vmhostctl", "config.yaml")
			env.Setenv("HOME", filepath.Join(env.WorkDir, "home"))
			env.Setenv("ENDPOINT", f.endpoint)
			env.Setenv("CA_FILE", f.caFile)
			env.Setenv("CA_PIN", f.caPin)
			env.Setenv("TOKEN", f.tokenFile)
			env.Setenv("TZ", "UTC")
			env.Setenv("GORACE", noRaceSleep)
			env.Setenv("EVIL", "a\x1b]0;b\n  do: rm")
			env.Setenv("OTHER_CA", filepath.Join(env.WorkDir, "other.pem"))
			if err := os.WriteFile(env.Getenv("OTHER_CA"), otherCA(env.T().(testing.TB)), 0o600); err != nil {
				return err
			}
			return clictx.WriteContext(config, f.context(), true)
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"exits":    exits,
			"fake":     setFake,
			"received": received,
		},
	})
}

// otherCA is an authority that has not signed for the fake region.
func otherCA(t testing.TB) []byte {
	ca, err := pki.NewAuthority("other")
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.CertDER()})
}

func exits(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	code := 0
	err = ts.Exec("vmhostctl", args[1:]...)
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		code = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	ts.Logf("[stdout]\n%s[stderr]\n%s", ts.ReadFile("stdout"), ts.ReadFile("stderr"))
	if code != want {
		ts.Fatalf("vmhostctl %s ended with %d, want %d", strings.Join(args[1:], " "), code, want)
	}
}

func received(ts *testscript.TestScript, _ bool, args []string) {
	text, err := ts.Value("fake").(*fakeRegion).requests(args[0])
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), []byte(text), 0o600))
}

func setFake(ts *testscript.TestScript, _ bool, args []string) {
	f := ts.Value("fake").(*fakeRegion)
	if args[0] == "fault" {
		e := apierror.New(code(ts, args[2]), vmhostv1.ErrorReason(vmhostv1.ErrorReason_value[args[3]]), "%s", args[4])
		if len(args) > 5 {
			e = e.WithHint("%s", args[5])
		}
		if e.Reason == vmhostv1.ErrorReason_INVALID_FIELD {
			e = e.WithField("cores", "is too much")
		}
		if len(args) > 6 {
			e = e.WithField("cores", "is still too much")
		}
		f.fault(args[1], e)
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	switch value := args[2]; args[1] {
	case "hold":
		f.hold = value == "true"
	case "page":
		n, err := strconv.Atoi(value)
		ts.Check(err)
		f.maxPage = n
	case "new-state":
		f.newState = vmhostv1.VmHostState(vmhostv1.VmHostState_value["VM_HOST_STATE_"+value])
	case "failing":
		f.failing = &vmhostv1.OperationError{Code: int32(codes.Unavailable), Reason: value, Message: "define domain: no such network 'lab'", Hint: "name another network"}
	case "placement":
		f.placement.Reset()
		ts.Check(protojson.Unmarshal([]byte(value), f.placement))
	case "check":
		f.check.Reset()
		ts.Check(protojson.Unmarshal([]byte(value), f.check))
	case "refuse":
		f.refused[value] = true
	case "held":
		ts.Check(protojson.Unmarshal([]byte(value), &f.drainHeld))
	case "console-log":
		text, err := strconv.Unquote(`"` + value + `"`)
		ts.Check(err)
		f.consoleLog = text
	case "host":
		h := &vmhostv1.VmHost{}
		ts.Check(protojson.Unmarshal([]byte(value), h))
		f.hosts = append(f.hosts, h)
	case "quota":
		f.pools[1].Quota, f.pools[1].Used = &vmhostv1.ResourceQuota{}, &vmhostv1.ResourceAmount{Machines: 3, Cores: 6, MemoryMib: 6144, StorageBytes: 60e9}
		ts.Check(protojson.Unmarshal([]byte(value), f.pools[1].GetQuota()))
	case "plan-quota":
		f.planQuota = &vmhostv1.ResourceQuota{}
		ts.Check(protojson.Unmarshal([]byte(value), f.planQuota))
	case "typed-event":
		e := &vmhostv1.Event{}
		ts.Check(protojson.Unmarshal([]byte(value), e))
		f.events = append(f.events, e)
	case "event":
		f.events = append(f.events, &vmhostv1.Event{Id: value, Type: "machine.power_changed", Resource: "machines/x", Message: value + " happened"})
	default:
		known, err := f.place.set(args[1], value)
		ts.Check(err)
		if !known {
			ts.Fatalf("the fake has no %s", args[1])
		}
	}
}

func code(ts *testscript.TestScript, name string) codes.Code {
	var c codes.Code
	ts.Check(c.UnmarshalJSON([]byte(strconv.Quote(name))))
	return c
}
