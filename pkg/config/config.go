// Package config fills a plain struct from a strict YAML file, then the
// environment, then flags; each wins over what comes before it. Defaults are the
// struct's values before Load.
//
// Every field has a yaml tag with its key and a usage tag; nested structs make
// paths. The key tls.cert_file of a service with prefix VMHOST_REGION is
//
//	tls: {cert_file: …}          in the file given by --config
//	VMHOST_REGION_TLS_CERT_FILE  in the environment; empty is the same as not set
//	--tls-cert-file              on the command line
//
// Lists are separated by commas and maps are k=v,k=v outside the file; a list or
// map given there replaces the one before. Lists of structs exist in the file only. A
// field with the tag secret:"true" has no flag, since command lines are public,
// and is never printed. The package keeps no state and starts no goroutine.
package config

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
)

// Options say where to read from.
type Options struct {
	// Name is the program's name, for --help.
	Name string
	// EnvPrefix is what environment variables begin with, for example
	// VMHOST_REGION. Empty: the environment is not read.
	EnvPrefix string
	// Args are the arguments without the program's name.
	Args []string
	// Getenv reads the environment; nil means os.Getenv.
	Getenv func(string) string
	// ReadFile reads the file; nil means os.ReadFile.
	ReadFile func(string) ([]byte, error)
	// Output is where --help is written; nil means os.Stdout.
	Output io.Writer
}

// Validator is a configuration that can say what is wrong with it. Load asks.
type Validator interface {
	// Validate joins all faults.
	Validate() error
}

// Load fills dst, a pointer to a struct. With --help it writes the flags and
// returns flag.ErrHelp. Errors name the key, flag or variable at fault and never
// show a secret.
func Load(dst any, o Options) error {
	fields, err := fieldsOf(dst)
	if err != nil {
		return err
	}
	o = o.complete()
	set, file, err := parseFlags(fields, o)
	if err != nil {
		return err
	}
	if file == "" && o.EnvPrefix != "" {
		file = o.Getenv(o.env("config"))
	}
	if file != "" {
		data, err := o.ReadFile(file)
		if err != nil {
			return fmt.Errorf("read configuration: %w", err)
		}
		if err := loadYAML(data, dst); err != nil {
			return fmt.Errorf("read configuration %s: %w", file, err)
		}
	}
	if err := loadEnvironment(fields, o); err != nil {
		return err
	}
	for _, f := range fields {
		if text, ok := set[f.flag()]; ok {
			if err := f.set(text); err != nil {
				return fmt.Errorf("flag --%s: %w", f.flag(), err)
			}
		}
	}
	if v, ok := dst.(Validator); ok {
		if err := v.Validate(); err != nil {
			return fmt.Errorf("check configuration: %w", err)
		}
	}
	return nil
}

// loadEnvironment reports all faults at once.
func loadEnvironment(fields []field, o Options) error {
	if o.EnvPrefix == "" {
		return nil
	}
	var faults []error
	for _, f := range fields {
		name := o.env(f.path...)
		text := o.Getenv(name)
		if text == "" || f.fileOnly {
			continue
		}
		if err := f.set(text); err != nil {
			faults = append(faults, fmt.Errorf("environment variable %s: %w", name, err))
		}
	}
	return errors.Join(faults...)
}

// parseFlags collects what was given without setting it yet: flags come last.
func parseFlags(fields []field, o Options) (set map[string]string, file string, err error) {
	flags := flag.NewFlagSet(o.Name, flag.ContinueOnError)
	flags.SetOutput(io.Discard) // the error is returned
	flags.StringVar(&file, "config", "", "")
	set = map[string]string{}
	for _, f := range fields {
		if !f.hasFlag() {
			continue
		}
		name := f.flag()
		keep := func(text string) error { set[name] = text; return nil }
		if f.isBool() {
			flags.BoolFunc(name, "", keep)
		} else {
			flags.Func(name, "", keep)
		}
	}
	switch err := flags.Parse(o.Args); {
	case errors.Is(err, flag.ErrHelp):
		writeHelp(o.Output, fields, o)
		return nil, "", flag.ErrHelp
	case err != nil:
		return nil, "", fmt.Errorf("parse flags: %w", err)
	case flags.NArg() > 0:
		return nil, "", fmt.Errorf("parse flags: unexpected argument %q", flags.Arg(0))
	}
	return set, file, nil
}

func (o Options) complete() Options {
	if o.Getenv == nil {
		o.Getenv = os.Getenv
	}
	if o.ReadFile == nil {
		o.ReadFile = os.ReadFile
	}
	if o.Output == nil {
		o.Output = os.Stdout
	}
	return o
}

// env is the name of the variable for a path.
func (o Options) env(path ...string) string {
	return strings.ToUpper(strings.TrimSuffix(o.EnvPrefix, "_") + "_" + strings.Join(path, "_"))
}
