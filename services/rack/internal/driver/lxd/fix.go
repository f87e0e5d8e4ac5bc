package lxd

import (
	"context"
	"fmt"
	"net/http"

	lxdapi "github.com/canonical/lxd/shared/api"
)

// Fix makes a storage pool where there is none. Networks of LXD are started by
// LXD itself; one that it could not start is for a person.
func (d *Driver) Fix(ctx context.Context) (map[string]string, error) {
	out := map[string]string{}
	d.facts.pools.drop()
	pools, err := d.readPools(ctx)
	if err != nil {
		return nil, err
	}
	if len(pools) > 0 {
		return out, nil
	}
	const name, driver = "default", "dir"
	op := "make storage pool " + name
	post := lxdapi.StoragePoolsPost{Name: name, Driver: driver}
	post.Description = "Made by vmhost"
	if d.member != "" {
		// In a cluster every member says first where its part is.
		members, err := d.readMembers(ctx)
		if err != nil {
			return nil, err
		}
		for _, m := range members {
			if err := d.change(ctx, op, http.MethodPost, d.in("/1.0/storage-pools", "target", m.ServerName), post, ""); err != nil {
				return nil, err
			}
		}
	}
	if err := d.change(ctx, op, http.MethodPost, "/1.0/storage-pools", post, ""); err != nil {
		return nil, err
	}
	d.facts.pools.drop()
	out["storage-pool"] = fmt.Sprintf("made the storage pool %q of type %s", name, driver)
	return out, nil
}
