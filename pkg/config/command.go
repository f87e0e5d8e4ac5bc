package config

import (
	"errors"
	"flag"
	"io"
)

// Command is Load for the main of a service. It also does what a service does
// besides serving: `--help`, `config print` and `config reference`. It says
// whether one of these was asked for, so that nothing is left to do.
func Command(dst any, o Options, stdout io.Writer) (done bool, err error) {
	o.Output = stdout
	if len(o.Args) >= 2 && o.Args[0] == "config" {
		what := o.Args[1]
		o.Args = o.Args[2:]
		switch what {
		case "print":
			if err := Load(dst, o); err != nil {
				return true, ignoreHelp(err)
			}
			return true, Print(stdout, dst)
		case "reference":
			return true, Reference(stdout, dst, o)
		}
		return true, errors.New("config: want print or reference")
	}
	err = Load(dst, o)
	return err != nil, ignoreHelp(err)
}

func ignoreHelp(err error) error {
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	return err
}
