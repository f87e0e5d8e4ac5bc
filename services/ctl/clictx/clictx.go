// Package clictx reads and writes the file in which vmhostctl keeps its
// contexts: which region to talk to, whom to trust, and with which token.
//
// A file is replaced whole and atomically, has mode 0600, and an unknown key in
// it is an error. The package starts no goroutines and opens no connection; it
// knows no command line, so that whoever starts a region can leave a ready
// context behind.
package clictx

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"

	"sigs.k8s.io/yaml"
)

// Context is one region and how to talk to it.
type Context struct {
	// Name is what the user calls it.
	Name string `json:"name"`
	// Endpoint is HOST:PORT of the region's API.
	Endpoint string `json:"endpoint"`
	// TokenFile holds the bearer token. It wins over Token.
	TokenFile string `json:"token_file,omitempty"`
	// Token is the bearer token itself.
	Token string `json:"token,omitempty"`
	// CAFile holds the PEM certificates that may sign for the region. It wins over
	// CAPin.
	CAFile string `json:"ca_file,omitempty"`
	// CAPin is the base64url SHA-256 of the public key of the region's CA, with
	// or without `sha256:` before it.
	CAPin string `json:"ca_pin,omitempty"`
}

// File is everything in the file.
type File struct {
	// Current is the name of the context in use; empty when none is.
	Current string `json:"current,omitempty"`
	// Contexts are in the order they were added.
	Contexts []Context `json:"contexts"`
}

// ErrNoContext says that no context has the name asked for.
var ErrNoContext = errors.New("no such context")

var nameForm = regexp.MustCompile(`^[a-zA-Z0-9]([-a-zA-Z0-9_.]{0,62})$`)

// DefaultPath is where the file is when nothing else was said:
// `$XDG_CONFIG_HOME/vmhostctl/config.yaml`, or what the system has in its place.
func DefaultPath(getenv func(string) string) (string, error) {
	dir := getenv("XDG_CONFIG_HOME")
	if dir == "" && runtime.GOOS == "linux" && getenv("HOME") != "" {
		dir = filepath.Join(getenv("HOME"), ".config")
	}
	if dir == "" {
		var err error
		if dir, err = os.UserConfigDir(); err != nil {
			return "", fmt.Errorf("find the folder for configuration: %w", err)
		}
	}
	return filepath.Join(dir, "vmhostctl", "config.yaml"), nil
}

// Load reads the file. One that does not exist is empty.
func Load(path string) (*File, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return &File{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read contexts: %w", err)
	}
	f := &File{}
	if err := yaml.UnmarshalStrict(data, f); err != nil {
		return nil, fmt.Errorf("read contexts from %s: %w", path, err)
	}
	return f, nil
}

// Save replaces the file, readable by its owner only.
func Save(path string, f *File) error {
	data, err := yaml.Marshal(f)
	if err != nil {
		return fmt.Errorf("write contexts: %w", err)
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("write contexts: %w", err)
	}
	tmp, err := os.CreateTemp(dir, ".config-*") // mode 0600 by itself
	if err != nil {
		return fmt.Errorf("write contexts: %w", err)
	}
	defer func() { _ = os.Remove(tmp.Name()) }() // fails once renamed, as it should
	_, err = tmp.Write(data)
	if err == nil {
		err = tmp.Sync()
	}
	if err = errors.Join(err, tmp.Close()); err != nil {
		return fmt.Errorf("write contexts: %w", err)
	}
	if err := os.Rename(tmp.Name(), path); err != nil {
		return fmt.Errorf("write contexts: %w", err)
	}
	return nil
}

// WriteContext adds a context to the file at path, or replaces the one of its
// name, and makes it the current one if asked or if there is no other.
func WriteContext(path string, c Context, makeCurrent bool) error {
	f, err := Load(path)
	if err != nil {
		return err
	}
	if err := f.Set(c); err != nil {
		return err
	}
	if makeCurrent || f.Current == "" {
		f.Current = c.Name
	}
	return Save(path, f)
}

// Get is the context of that name.
func (f *File) Get(name string) (Context, error) {
	i := f.index(name)
	if i < 0 {
		return Context{}, fmt.Errorf("%w: %s", ErrNoContext, name)
	}
	return f.Contexts[i], nil
}

// Set adds a context, or replaces the one of its name.
func (f *File) Set(c Context) error {
	if !nameForm.MatchString(c.Name) {
		return fmt.Errorf("context name %q: use letters, digits, `-`, `_` and `.`, at most 63", c.Name)
	}
	if c.Endpoint == "" {
		return fmt.Errorf("context %s: endpoint is empty", c.Name)
	}
	if i := f.index(c.Name); i >= 0 {
		f.Contexts[i] = c
		return nil
	}
	f.Contexts = append(f.Contexts, c)
	return nil
}

// Use makes a context the current one.
func (f *File) Use(name string) error {
	if f.index(name) < 0 {
		return fmt.Errorf("%w: %s", ErrNoContext, name)
	}
	f.Current = name
	return nil
}

// Delete takes a context out. When it was the current one, none is.
func (f *File) Delete(name string) error {
	i := f.index(name)
	if i < 0 {
		return fmt.Errorf("%w: %s", ErrNoContext, name)
	}
	f.Contexts = slices.Delete(f.Contexts, i, i+1)
	if f.Current == name {
		f.Current = ""
	}
	return nil
}

func (f *File) index(name string) int {
	return slices.IndexFunc(f.Contexts, func(c Context) bool { return c.Name == name })
}
