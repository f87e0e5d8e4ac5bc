package ctl

import (
	"errors"
	"strconv"

	"github.com/spf13/pflag"
)

// badValue says that a flag's value is none, without the words of those who parse
// it.
func (a *app) badValue(e *pflag.InvalidValueError) error {
	name := "--" + e.GetFlag().Name
	say := func(hint, what string) error {
		return usage(hint, "%s is %q, which is %s", name, e.GetValue(), what)
	}
	tooMuch := errors.Is(e, strconv.ErrRange)
	switch kind := e.GetFlag().Value.Type(); kind {
	case "int32", "int":
		if tooMuch && kind == "int32" {
			return say(a.helpHint(), "no whole number from -2147483648 to 2147483647")
		}
		return say(a.helpHint(), "no whole number")
	case "float64":
		return say(a.helpHint(), "no number")
	case "bool":
		return say("write "+name+" or "+name+"=false", "neither true nor false")
	case "duration":
		return say("write for example "+name+" 90s or "+name+" 2h", "no length of time")
	default:
		return usage(a.helpHint(), "%s", e)
	}
}
