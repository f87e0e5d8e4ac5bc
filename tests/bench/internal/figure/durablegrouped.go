package figure

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/vmhost-project/vmhost/tests/bench/internal/measure"
)

func durableCeiling() Figure {
	return Figure{
		Name: "compose_durable_ceiling",
		About: "what sharing transactions is worth at best: the keys of compose_durable_1000_hosts in two transactions at a time of 32 composes each, " +
			"by clients that choose no host, make no records and watch nothing, against one transaction per compose",
		Pair: func(ctx context.Context, e *Env) (measure.Pair, error) {
			d, err := e.durableOfMany(ctx)
			if err != nil {
				return measure.Pair{}, err
			}
			return measure.Pair{Unit: "composes/s", A: d.below("/grouped").grouped(ctx, e), Vs: "one-txn-each", B: d.below("/alone").owned()}, nil
		},
	}
}

const (
	// groupSize is how many composes share a transaction: with four writes each as many
	// as etcd takes.
	groupSize = 32
	// groupWait ends a group that does not fill up, as the last one of a run.
	groupWait = 10 * time.Millisecond
)

// waiting is a compose that waits for its group.
type waiting struct {
	name string
	done chan error
}

// grouped commits by two goroutines that have half of the hosts each, which end with the etcd.
func (d *durable) grouped(ctx context.Context, e *Env) measure.Side {
	queue := make(chan waiting)
	var group sync.WaitGroup
	for half := range 2 {
		group.Go(func() { d.groups(ctx, queue, half) })
	}
	e.untilNext(func(context.Context) error {
		close(queue)
		group.Wait()
		return nil
	})
	return rate(func(ctx context.Context, name string) error {
		w := waiting{name, make(chan error, 1)}
		select {
		case queue <- w:
			return <-w.done
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	})
}

// groups commits what waits until nothing comes any more, each compose on the next of
// every second host.
func (d *durable) groups(ctx context.Context, queue <-chan waiting, half int) {
	revisions := make([]int64, d.hosts)
	at := half
	for first := range queue {
		var compares []clientv3.Cmp
		var puts []clientv3.Op
		var hosts []int
		all := fill(first, queue)
		for _, w := range all {
			c, p := d.compose(at, revisions[at], w.name)
			compares, puts, hosts = append(compares, c...), append(puts, p...), append(hosts, at)
			if at += 2; at >= d.hosts {
				at = half
			}
		}
		revision, err := d.submit(ctx, compares, puts)
		if err == nil && revision == 0 {
			err = errors.New("somebody else wrote a ledger")
		}
		if err != nil {
			err = fmt.Errorf("commit %d composes: %w", len(all), err)
		}
		for i, w := range all {
			if err == nil {
				revisions[hosts[i]] = revision
			}
			w.done <- err
		}
	}
}

// fill is a group of those who wait.
func fill(first waiting, queue <-chan waiting) []waiting {
	all := append(make([]waiting, 0, groupSize), first)
	stop := time.After(groupWait)
	for len(all) < groupSize {
		select {
		case w, ok := <-queue:
			if !ok {
				return all
			}
			all = append(all, w)
		case <-stop:
			return all
		}
	}
	return all
}
