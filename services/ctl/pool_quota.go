package ctl

import (
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	"github.com/vmhost-project/vmhost/pkg/units"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/ctl/internal/display"
)

// quotaFlag adds --quota. It replaces the whole quota; an empty one takes it
// away.
func quotaFlag(c *cobra.Command) func(*vmhostv1.ResourcePool) ([]string, error) {
	quota := c.Flags().String("quota", "", "what its machines may take together, `AMOUNTS` as above; '' is no limit")
	return func(p *vmhostv1.ResourcePool) ([]string, error) {
		if !c.Flags().Changed("quota") {
			return nil, nil
		}
		var err error
		p.Quota, err = parseQuota(*quota)
		return []string{"quota"}, err
	}
}

// parseQuota reads `machines=10,cores=40,memory=128GiB,storage=2TB`; nil is no
// quota.
func parseQuota(s string) (*vmhostv1.ResourceQuota, error) {
	const hint = "write for example --quota machines=10,cores=40,memory=128GiB,storage=2TB"
	if s == "" {
		return nil, nil //nolint:nilnil // no quota is what nil says
	}
	q := &vmhostv1.ResourceQuota{}
	once := map[string]bool{}
	for part := range strings.SplitSeq(s, ",") {
		key, value, _ := strings.Cut(part, "=")
		if once[key] {
			return nil, usage(hint, "--quota names %s twice", key)
		}
		once[key] = true
		var n int64
		var err error
		switch key {
		case "machines":
			n, err = strconv.ParseInt(value, 10, 32)
			q.Machines = proto.Int32(int32(n))
		case "cores":
			n, err = strconv.ParseInt(value, 10, 64)
			q.Cores = &n
		case "memory":
			n, err = units.ParseMemoryMiB(value)
			q.MemoryMib = &n
		case "storage":
			n, err = units.ParseBytes(value)
			q.StorageBytes = &n
		default:
			return nil, usage(hint, "--quota has no %q: there are machines, cores, memory and storage", key)
		}
		if err != nil || n < 0 {
			return nil, usage(hint, "--quota %s is %q, which is no such amount", key, value)
		}
	}
	return q, nil
}

// quotaRow is one resource of a pool: what is used, and of how much.
type quotaRow struct {
	name   string
	used   int64
	limit  *int64
	format func(int64) string
}

// text is `6/40`, or `6` where there is no limit.
func (r quotaRow) text() string {
	if r.limit == nil {
		return r.format(r.used)
	}
	return r.format(r.used) + "/" + r.format(*r.limit)
}

func quotaRows(p *vmhostv1.ResourcePool) [4]quotaRow {
	q, u := p.GetQuota(), p.GetUsed()
	if q == nil {
		q = &vmhostv1.ResourceQuota{}
	}
	var machines *int64
	if q.Machines != nil {
		machines = proto.Int64(int64(q.GetMachines()))
	}
	return [4]quotaRow{
		{"Machines", int64(u.GetMachines()), machines, plainNumber},
		{"Cores", u.GetCores(), q.Cores, plainNumber},                   //nolint:protogetter // presence matters: not set is no limit
		{"Memory", u.GetMemoryMib(), q.MemoryMib, memory},               //nolint:protogetter // see above
		{"Storage", u.GetStorageBytes(), q.StorageBytes, display.Bytes}, //nolint:protogetter // see above
	}
}

// quotaText is what parseQuota reads.
func quotaText(q *vmhostv1.ResourceQuota) string {
	var parts []string
	add := func(key string, n *int64, format func(int64) string) {
		if n != nil {
			parts = append(parts, key+"="+format(*n))
		}
	}
	rows := quotaRows(&vmhostv1.ResourcePool{Quota: q})
	add("machines", rows[0].limit, plainNumber)
	add("cores", rows[1].limit, plainNumber)
	add("memory", rows[2].limit, func(mib int64) string {
		if mib%1024 == 0 {
			return plainNumber(mib/1024) + "GiB"
		}
		return plainNumber(mib) + "MiB"
	})
	add("storage", rows[3].limit, units.FormatBytes)
	return strings.Join(parts, ",")
}
