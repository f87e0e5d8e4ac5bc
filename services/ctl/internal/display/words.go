package display

import (
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"
)

// ID is the last part of a resource name: `h1` of `vmHosts/h1`.
func ID(name string) string { return name[strings.LastIndexByte(name, '/')+1:] }

// IDs are the last parts of resource names, with commas.
func IDs(names []string) string {
	ids := make([]string, len(names))
	for i, n := range names {
		ids[i] = ID(n)
	}
	return strings.Join(ids, ",")
}

// Word is an enum's value without the enum's name before it, UNKNOWN when it is
// not specified.
func Word(value fmt.Stringer, prefix string) string {
	w := strings.TrimPrefix(value.String(), prefix)
	if w == "UNSPECIFIED" {
		return "UNKNOWN"
	}
	return w
}

// Age is how long ago something was, short.
func Age(now time.Time, t *timestamppb.Timestamp) string {
	if !t.IsValid() {
		return ""
	}
	return Span(now.Sub(t.AsTime()))
}

// Span is a length of time, short: the largest unit that fits, and two of them
// while that says more.
func Span(d time.Duration) string {
	switch d = max(d, 0); {
	case d < 10*time.Second:
		return fmt.Sprintf("%.1fs", d.Seconds())
	case d < 2*time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < 10*time.Minute:
		return fmt.Sprintf("%dm%02ds", int(d.Minutes()), int(d.Seconds())%60)
	case d < 2*time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	default:
		return fmt.Sprintf("%dd", int(d.Hours()/24))
	}
}

// Time is a point in time in the user's time zone, with how far from now it is.
func Time(now time.Time, t *timestamppb.Timestamp) string {
	if !t.IsValid() {
		return ""
	}
	distance := Span(now.Sub(t.AsTime())) + " ago"
	if t.AsTime().After(now) {
		distance = "in " + Span(t.AsTime().Sub(now))
	}
	return t.AsTime().Local().Format("2006-01-02 15:04:05") + " (" + distance + ")"
}
