package lxd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	lxdapi "github.com/canonical/lxd/shared/api"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
)

const (
	defaultProject     = "default"
	projectDescription = "Machines of vmhost"
)

// enterProject makes sure that the driver's project is there and ours to use.
func (d *Driver) enterProject(ctx context.Context) error {
	op := "find project " + d.project
	path := "/1.0/projects/" + url.PathEscape(d.project)
	_, err := get[lxdapi.Project](ctx, d.conn, op, path)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, hypervisor.ErrNotFound) && d.lookOnly:
		return &hypervisor.Error{
			Class: hypervisor.ErrRefused, Op: op, Err: fmt.Errorf("the server has no project %q", d.project),
			Hint: "adding the host makes it, where its certificate may; or name one that is there",
		}
	case errors.Is(err, hypervisor.ErrNotFound):
		return d.makeProject(ctx)
	case errors.Is(err, hypervisor.ErrRefused):
		return d.forbidden(ctx, op)
	}
	return err
}

// makeProject makes the project with the server's images in it: a project with
// images of its own has none at first, and no container could be made.
func (d *Driver) makeProject(ctx context.Context) error {
	op := "create project " + d.project
	post := lxdapi.ProjectsPost{Name: d.project}
	post.Description = projectDescription
	post.Config = map[string]string{"features.images": "false"}
	_, _, err := d.conn.query(ctx, op, http.MethodPost, "/1.0/projects", post, "")
	switch {
	case err == nil, errors.Is(err, hypervisor.ErrExists):
		return nil
	case errors.Is(err, hypervisor.ErrRefused):
		return d.forbidden(ctx, op)
	}
	return err
}

// forbidden is for a project that our certificate is kept out of. LXD does not
// say whether it is there.
func (d *Driver) forbidden(ctx context.Context, op string) error {
	may := "none"
	if names, err := d.Projects(ctx); err == nil && len(names) > 0 {
		may = strings.Join(names, ", ")
	}
	return &hypervisor.Error{
		Class: hypervisor.ErrRefused, Op: op,
		Err: fmt.Errorf("the host's certificate is restricted to the projects %s and may neither use nor create %q", may, d.project),
		Hint: fmt.Sprintf("on the server: lxc project create %s (unless it is there), then lxc config trust edit FINGERPRINT and add %s to its projects",
			d.project, d.project),
	}
}

// Projects are those that the certificate may see.
func (d *Driver) Projects(ctx context.Context) ([]string, error) {
	list, err := get[[]string](ctx, d.conn, "list projects", "/1.0/projects")
	if err != nil {
		return nil, err
	}
	names := make([]string, 0, len(list))
	for _, p := range list {
		name, err := url.PathUnescape(p[strings.LastIndexByte(p, '/')+1:])
		if err != nil {
			continue // no name that anybody could use
		}
		names = append(names, name)
	}
	slices.Sort(names)
	return names, nil
}

// in is a path of the driver's project, with more parameters as k, v.
func (d *Driver) in(path string, more ...string) string {
	values := url.Values{"project": {d.project}}
	for i := 0; i+1 < len(more); i += 2 {
		values.Set(more[i], more[i+1])
	}
	return path + "?" + values.Encode()
}

// instancePath is the path of an instance of the project.
func (d *Driver) instancePath(name string, rest ...string) string {
	return d.in("/1.0/instances/" + url.PathEscape(name) + strings.Join(rest, ""))
}

func projectOf(name string) string { return cmp.Or(name, defaultProject) }
