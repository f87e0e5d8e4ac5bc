package jsonapi

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"github.com/grpc-ecosystem/grpc-gateway/v2/utilities"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/gateway/internal/front"
)

const (
	machinesPath     = "/v1/machines/"
	consoleLogMethod = "consoleLog"
	attachMethod     = "attachConsole"
)

// machineMethod splits the path of a method of one machine.
func machineMethod(path string) (machine, method string) {
	rest, ok := strings.CutPrefix(path, machinesPath)
	id, method, custom := strings.Cut(rest, ":")
	if !ok || !custom || id == "" || strings.Contains(rest, "/") {
		return "", ""
	}
	return "machines/" + id, method
}

// consoleLog sends a console's log in parts, as one JSON object a line:
// `{"result":{"data":…}}`, the data in base64, or at the end `{"error":…}`. An
// error before the first part is an ordinary one.
func (a *API) consoleLog(ctx context.Context, w http.ResponseWriter, r *http.Request, machine string) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	req := &vmhostv1.ReadConsoleLogRequest{}
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err == nil {
		err = runtime.PopulateQueryParameters(req, query, utilities.NewDoubleArray([][]string{{"name"}}))
	}
	if err != nil {
		a.fail(ctx, w, a.explain(ctx, vmhostv1.MachineService_ReadConsoleLog_FullMethodName, err), 0)
		return
	}
	req.Name = machine
	front.SetStream(ctx)
	stream, err := a.machines.ReadConsoleLog(ctx, req)
	if err != nil {
		a.fail(ctx, w, err, 0)
		return
	}
	out, control := ndjson{w}, http.NewResponseController(w)
	for first := true; ; first = false {
		part, err := stream.Recv()
		switch {
		case err != nil && first && !errors.Is(err, io.EOF):
			a.fail(ctx, w, err, 0)
			return
		case err != nil && !first:
			if !errors.Is(err, io.EOF) {
				body, _ := protojson.Marshal(a.status(ctx, err)) // of our own types only
				_ = out.failure(body)                            // it is the end either way
			}
			return
		}
		if first {
			w.Header().Set("Content-Type", "application/x-ndjson")
			w.WriteHeader(http.StatusOK)
		}
		if err != nil {
			return // there is no log
		}
		data, err := codec{}.Marshal(part)
		if err != nil || out.line("result", data) != nil || control.Flush() != nil {
			return // the client is gone
		}
	}
}

// attachConsole says in words that HTTP has no consoles.
func (a *API) attachConsole(ctx context.Context, w http.ResponseWriter) {
	front.SetRoute(ctx, machinesPath+"{machine}:"+attachMethod)
	a.fail(ctx, w, apierror.New(codes.Unimplemented, vmhostv1.ErrorReason_UNSUPPORTED, "a console goes both ways, which this API over HTTP does not").
		WithHint("use gRPC, as `vmhostctl machine console` does; what a machine wrote is at {machine}:"+consoleLogMethod), 0)
}
