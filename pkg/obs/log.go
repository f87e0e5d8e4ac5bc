package obs

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// NewLogger makes a logger. Level is debug, info, warn or error. Format is json,
// text, or auto: text where w is a terminal. Records carry the request id of
// their context.
func NewLogger(w io.Writer, level, format string) (*slog.Logger, error) {
	var lowest slog.Level
	if err := lowest.UnmarshalText([]byte(level)); err != nil {
		return nil, fmt.Errorf("log level %q: want debug, info, warn or error", level)
	}
	if format == "auto" {
		format = "json"
		if isTerminal(w) {
			format = "text"
		}
	}
	opts := &slog.HandlerOptions{Level: lowest, ReplaceAttr: readable}
	switch format {
	case "json":
		return slog.New(requestIDHandler{slog.NewJSONHandler(w, opts)}), nil
	case "text":
		return slog.New(requestIDHandler{slog.NewTextHandler(w, opts)}), nil
	}
	return nil, fmt.Errorf("log format %q: want json, text or auto", format)
}

// readable writes what a number would hide: JSON has no form for a duration but
// nanoseconds, nor for the name of an enum. A duration is in seconds.
func readable(_ []string, a slog.Attr) slog.Attr {
	switch v := a.Value; v.Kind() {
	case slog.KindDuration:
		a.Value = slog.Float64Value(v.Duration().Seconds())
	case slog.KindAny:
		if enum, ok := v.Any().(protoreflect.Enum); ok {
			if s, ok := enum.(fmt.Stringer); ok {
				a.Value = slog.StringValue(s.String())
			}
		}
	default:
	}
	return a
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// requestIDHandler adds the context's request id to every record.
type requestIDHandler struct{ slog.Handler }

func (h requestIDHandler) Handle(ctx context.Context, r slog.Record) error {
	if id := RequestID(ctx); id != "" {
		r = r.Clone()
		r.AddAttrs(slog.String(KeyRequestID, id))
	}
	return h.Handler.Handle(ctx, r)
}

func (h requestIDHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return requestIDHandler{h.Handler.WithAttrs(attrs)}
}

func (h requestIDHandler) WithGroup(name string) slog.Handler {
	return requestIDHandler{h.Handler.WithGroup(name)}
}
