package lxd

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	lxdapi "github.com/canonical/lxd/shared/api"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

func unsupportedServer(server *lxdapi.Server, missing []string) error {
	return &hypervisor.Error{
		Class: hypervisor.ErrUnsupported, Op: "read what the server can do",
		Err:  fmt.Errorf("LXD %s has not: %s", server.Environment.ServerVersion, strings.Join(missing, ", ")),
		Hint: "LXD 5.0 or newer is needed",
	}
}

func noSuchMember(name, why string) error {
	return &hypervisor.Error{
		Class: hypervisor.ErrRefused, Op: "find cluster member " + name, Err: errors.New(why),
		Hint: "`lxc cluster list` on the server shows its members",
	}
}

// checkMember makes sure that the driver's member is in the cluster. A restricted
// certificate may not see the members; then the first list shows it.
func (d *Driver) checkMember(ctx context.Context) error {
	list, err := d.readMembers(ctx)
	if errors.Is(err, hypervisor.ErrRefused) {
		return nil
	}
	if err != nil {
		return err
	}
	if slices.ContainsFunc(list, func(m lxdapi.ClusterMember) bool { return m.ServerName == d.member }) {
		return nil
	}
	names := make([]string, 0, len(list))
	for _, m := range list {
		names = append(names, m.ServerName)
	}
	return noSuchMember(d.member, "the cluster has the members "+strings.Join(names, ", "))
}

func (d *Driver) readMembers(ctx context.Context) ([]lxdapi.ClusterMember, error) {
	return get[[]lxdapi.ClusterMember](ctx, d.conn, "list cluster members", "/1.0/cluster/members?recursion=1")
}

// members are the cluster's in the protocol's form.
func members(list []lxdapi.ClusterMember) []*vmhostv1.ClusterMember {
	out := make([]*vmhostv1.ClusterMember, 0, len(list))
	for _, m := range list {
		out = append(out, &vmhostv1.ClusterMember{
			Name: m.ServerName, Address: m.URL, Online: strings.EqualFold(m.Status, "online"), Status: strings.TrimSpace(m.Status + ": " + m.Message),
		})
	}
	slices.SortFunc(out, func(a, b *vmhostv1.ClusterMember) int { return strings.Compare(a.GetName(), b.GetName()) })
	return out
}

// here says whether something with that location belongs to the driver's host.
func (d *Driver) here(location string) bool { return d.member == "" || location == d.member }

// onMember adds the target of a request to its parameters.
func (d *Driver) onMember(path string) string {
	if d.member == "" {
		return path
	}
	separator := "?"
	if strings.Contains(path, "?") {
		separator = "&"
	}
	return path + separator + url.Values{"target": {d.member}}.Encode()
}
