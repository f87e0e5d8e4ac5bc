package figure

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/vmhost-project/vmhost/services/region/regiontest/ledgerbench"
	"github.com/vmhost-project/vmhost/tests/bench/internal/measure"
)

const durableHosts = 1000

func durableMany() Figure {
	return Figure{
		Name: "compose_durable_1000_hosts",
		About: "composes per second placed, recorded and acknowledged, 64 clients, 1,000 hosts, against the same keys, compared and put, with one transaction per " +
			"compose by 64 clients that know every host's ledger and wait for each other at a host",
		Pair: func(ctx context.Context, e *Env) (measure.Pair, error) {
			d, err := e.durableOfMany(ctx)
			if err != nil {
				return measure.Pair{}, err
			}
			return measure.Pair{Unit: "composes/s", A: d.ours, Vs: "one-txn-each", B: d.below("/floor").owned(), Target: measure.Target{AtLeast: 2}}, nil
		},
	}
}

func durableOne() Figure {
	return Figure{
		Name:  "compose_durable_one_host",
		About: "the same with a single host, against 64 clients that read its ledger, compare and put, and begin again when another was faster",
		Pair: func(ctx context.Context, e *Env) (measure.Pair, error) {
			d, err := e.durable(ctx, 1)
			if err != nil {
				return measure.Pair{}, err
			}
			return measure.Pair{Unit: "composes/s", A: d.ours, Vs: "read-compare-put", B: d.below("/floor").contended(), Target: measure.Target{AtLeast: 5}}, nil
		},
	}
}

// durable is a ledger, and what one compose of it compares and writes.
type durable struct {
	client                               *clientv3.Client
	hosts                                int
	ours                                 measure.Side
	ledger, machine, hostname, operation string           // values as they are written
	same                                 map[string]int64 // revisions of keys that no compose writes: hosts and their pool
	root                                 string           // of the keys that are written
}

// below is what writes below a root that nobody else does.
func (d *durable) below(root string) *durable {
	out := *d
	out.root = root + "/v1"
	return &out
}

// durableOfMany is the one of the figures with many hosts.
func (e *Env) durableOfMany(ctx context.Context) (*durable, error) {
	if e.many != nil {
		return e.many, nil
	}
	var err error
	e.many, err = e.durable(ctx, durableHosts)
	return e.many, err
}

const hostKeys, poolKey = "/vmhost/v1/hosts/", "/vmhost/v1/pools/default"

func (e *Env) durable(ctx context.Context, hosts int) (*durable, error) {
	if err := e.begin(ctx); err != nil {
		return nil, err
	}
	etcd, err := e.etcd(ctx, fmt.Sprintf("durable-%d", hosts))
	if err != nil {
		return nil, err
	}
	l, err := ledgerbench.Start(ctx, etcd.Wire, hosts)
	if err != nil {
		return nil, err
	}
	e.untilNext(func(context.Context) error { l.Close(); return nil })
	d := &durable{client: etcd.Wire, hosts: hosts, ours: rate(l.Commit)}
	return d, d.learn(ctx, l)
}

// learn reads what a compose wrote.
func (d *durable) learn(ctx context.Context, l *ledgerbench.Ledger) error {
	if err := l.Commit(ctx, "learn"); err != nil {
		return err
	}
	for prefix, value := range map[string]*string{"ledger/": &d.ledger, "machines/": &d.machine, "names/": &d.hostname, "operations/": &d.operation} {
		resp, err := d.client.Get(ctx, "/vmhost/v1/"+prefix, clientv3.WithPrefix(), clientv3.WithLimit(1))
		if err != nil {
			return fmt.Errorf("read what a compose wrote: %w", err)
		}
		if len(resp.Kvs) != 1 {
			return fmt.Errorf("a compose wrote nothing below %s", prefix)
		}
		*value = string(resp.Kvs[0].GetValue())
	}
	d.same = map[string]int64{}
	for _, key := range []string{hostKeys, poolKey} {
		resp, err := d.client.Get(ctx, key, clientv3.WithPrefix(), clientv3.WithKeysOnly())
		if err != nil {
			return fmt.Errorf("read what a compose compares: %w", err)
		}
		for _, kv := range resp.Kvs {
			d.same[string(kv.GetKey())] = kv.GetModRevision()
		}
	}
	if len(d.same) != d.hosts+1 {
		return fmt.Errorf("%d hosts and pools, not %d", len(d.same), d.hosts+1)
	}
	return nil
}

// compose is what one compares and writes, but for the pool: the host as it was, its
// ledger of a revision, and the name free.
func (d *durable) compose(host int, revision int64, name string) ([]clientv3.Cmp, []clientv3.Op) {
	// Keys as long as ours are.
	uid, spec, ledger, free := strings.Repeat("0", 36-len(name))+name, hostKeys+"h"+strconv.Itoa(host), d.ledgerOf(host), d.root+"/names/default/"+name
	compares := []clientv3.Cmp{
		clientv3.Compare(clientv3.ModRevision(spec), "=", d.same[spec]),
		clientv3.Compare(clientv3.ModRevision(ledger), "=", revision),
		clientv3.Compare(clientv3.CreateRevision(free), "=", 0),
	}
	return compares, []clientv3.Op{
		clientv3.OpPut(ledger, d.ledger), clientv3.OpPut(d.root+"/machines/"+uid, d.machine),
		clientv3.OpPut(free, d.hostname), clientv3.OpPut(d.root+"/operations/"+uid, d.operation),
	}
}

// submit puts composes into a transaction, which compares their pool as well. It
// answers with the ledgers' new revision, 0 when somebody was faster.
func (d *durable) submit(ctx context.Context, compares []clientv3.Cmp, puts []clientv3.Op) (int64, error) {
	resp, err := d.client.Txn(ctx).If(append(compares, clientv3.Compare(clientv3.ModRevision(poolKey), "=", d.same[poolKey]))...).Then(puts...).Commit()
	if err != nil {
		return 0, fmt.Errorf("compare and put: %w", err)
	}
	if !resp.Succeeded {
		return 0, nil
	}
	return resp.Header.GetRevision(), nil
}

// commit is one compose as one transaction.
func (d *durable) commit(ctx context.Context, host int, revision int64, name string) (int64, error) {
	compares, puts := d.compose(host, revision, name)
	return d.submit(ctx, compares, puts)
}

func (d *durable) ledgerOf(host int) string { return d.root + "/ledger/h" + strconv.Itoa(host) }

// owned is the best that can be done without putting several into a transaction:
// nothing is read, and nobody is ever too slow.
func (d *durable) owned() measure.Side {
	type host struct {
		sync.Mutex
		revision int64
	}
	hosts := make([]host, d.hosts)
	return rate(func(ctx context.Context, name string) error {
		i := rand.IntN(d.hosts) //nolint:gosec // no secret
		h := &hosts[i]
		h.Lock()
		defer h.Unlock()
		revision, err := d.commit(ctx, i, h.revision, name)
		if err == nil && revision == 0 {
			return fmt.Errorf("somebody else wrote the ledger of host %d", i)
		}
		h.revision = revision
		return err
	})
}

// contended is what everybody writes first.
func (d *durable) contended() measure.Side {
	return rate(func(ctx context.Context, name string) error {
		for {
			resp, err := d.client.Get(ctx, d.ledgerOf(0))
			if err != nil {
				return fmt.Errorf("read the ledger: %w", err)
			}
			var revision int64
			if len(resp.Kvs) > 0 {
				revision = resp.Kvs[0].GetModRevision()
			}
			if revision, err = d.commit(ctx, 0, revision, name); err != nil || revision != 0 {
				return err
			}
		}
	})
}
