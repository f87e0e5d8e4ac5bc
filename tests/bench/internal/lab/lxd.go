package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
)

// LXD is a real LXD server of the lab. It is talked to by plain HTTP on its unix
// socket: LXD's own client is for the rack's driver only.
type LXD struct {
	// Name is the host's name in the lab, Socket where its LXD listens.
	Name, Socket string

	http *http.Client
}

// LXD brings an LXD server up beside the libvirt host.
func (l *Lab) LXD(ctx context.Context) (*LXD, error) {
	const name = "lxd1"
	if err := l.devhosts(ctx, l.out, "up", name); err != nil {
		return nil, err
	}
	socket, err := l.setting(ctx, "DEVHOSTS_LXD1_SOCKET")
	if err != nil {
		return nil, err
	}
	return &LXD{Name: name, Socket: socket, http: &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
		MaxIdleConnsPerHost: makers,
	}}}, nil
}

// makers is how many instances are made at once.
const makers = 8

// Fill makes n instances that do not run, each with an empty root disk and one
// interface, and answers with what removes them.
func (x *LXD) Fill(ctx context.Context, n int) (remove func(context.Context) error, err error) {
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprintf("bench-instance-%03d", i)
	}
	remove = func(ctx context.Context) error {
		return each(names, func(name string) error {
			return x.operate(ctx, http.MethodDelete, "/1.0/instances/"+name, nil)
		})
	}
	err = each(names, func(name string) error {
		return x.operate(ctx, http.MethodPost, "/1.0/instances", map[string]any{
			"name": name, "type": "container", "architecture": "x86_64", "source": map[string]string{"type": "none"},
			"config": map[string]string{"limits.cpu": "1", "limits.memory": "64MiB"},
		})
	})
	if err != nil {
		return nil, errors.Join(err, remove(ctx))
	}
	return remove, nil
}

func each(names []string, do func(name string) error) error {
	var (
		group sync.WaitGroup
		mu    sync.Mutex
		errs  []error
	)
	slots := make(chan struct{}, makers)
	for _, name := range names {
		slots <- struct{}{}
		group.Go(func() {
			defer func() { <-slots }()
			if err := do(name); err != nil {
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, err)
			}
		})
	}
	group.Wait()
	return errors.Join(errs...)
}

// reply is what LXD wraps every answer in.
type reply struct {
	Operation string          `json:"operation"`
	Error     string          `json:"error"`
	Metadata  json.RawMessage `json:"metadata"`
}

// operate does what LXD answers with an operation, and waits for its end.
func (x *LXD) operate(ctx context.Context, method, path string, body any) error {
	begun, err := x.call(ctx, method, path, body)
	if err != nil {
		return err
	}
	ended, err := x.call(ctx, http.MethodGet, begun.Operation+"/wait", nil)
	if err != nil {
		return err
	}
	var op struct {
		Err string `json:"err"`
	}
	if err := json.Unmarshal(ended.Metadata, &op); err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	if op.Err != "" {
		return fmt.Errorf("%s %s: %s", method, path, op.Err)
	}
	return nil
}

func (x *LXD) call(ctx context.Context, method, path string, body any) (*reply, error) {
	var content io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return nil, fmt.Errorf("%s %s: %w", method, path, err)
		}
		content = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://lxd"+path, content)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", method, path, err)
	}
	resp, err := x.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", method, path, err)
	}
	defer func() { _ = resp.Body.Close() }()
	r := &reply{}
	if err := json.NewDecoder(resp.Body).Decode(r); err != nil {
		return nil, fmt.Errorf("%s %s: %w", method, path, err)
	}
	if r.Error != "" {
		return nil, fmt.Errorf("%s %s: %s", method, path, r.Error)
	}
	return r, nil
}

// instance is what a client has to read of an instance, as any client of LXD
// does.
type instance struct {
	Name            string                       `json:"name"`
	Description     string                       `json:"description"`
	Status          string                       `json:"status"`
	StatusCode      int                          `json:"status_code"`
	Type            string                       `json:"type"`
	Architecture    string                       `json:"architecture"`
	Location        string                       `json:"location"`
	Project         string                       `json:"project"`
	CreatedAt       string                       `json:"created_at"`
	LastUsedAt      string                       `json:"last_used_at"`
	Ephemeral       bool                         `json:"ephemeral"`
	Stateful        bool                         `json:"stateful"`
	Profiles        []string                     `json:"profiles"`
	Config          map[string]string            `json:"config"`
	Devices         map[string]map[string]string `json:"devices"`
	ExpandedConfig  map[string]string            `json:"expanded_config"`
	ExpandedDevices map[string]map[string]string `json:"expanded_devices"`
}

// List is the bare list of all instances, by one call, and how many they are.
func (x *LXD) List(ctx context.Context) (int, error) {
	r, err := x.call(ctx, http.MethodGet, "/1.0/instances?recursion=1", nil)
	if err != nil {
		return 0, err
	}
	var all []instance
	if err := json.Unmarshal(r.Metadata, &all); err != nil {
		return 0, fmt.Errorf("understand the list of instances: %w", err)
	}
	return len(all), nil
}

// setting is a line of what the script says of the lab.
func (l *Lab) setting(ctx context.Context, key string) (string, error) {
	var env bytes.Buffer
	if err := l.devhosts(ctx, &env, "env"); err != nil {
		return "", err
	}
	for line := range strings.Lines(env.String()) {
		if value, ok := strings.CutPrefix(line, key+"="); ok {
			return strings.TrimSpace(value), nil
		}
	}
	return "", fmt.Errorf("devhosts.sh env says nothing of %s", key)
}
