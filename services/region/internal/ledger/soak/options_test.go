package soak

import (
	"flag"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// options say how much is run.
type options struct {
	regions, clients, hosts int
	// calls is how many a client makes in a round.
	calls int
	// commits is how many composes must have been committed, at least; limit is
	// after what time no further round begins.
	commits int
	limit   time.Duration
	seed    uint64
	// etcd is the URL of an empty etcd; empty: one of the test's own, which does
	// not sync to disk.
	etcd string
}

// long is the soak as the flags say. Flags of a test are known before any test.
//
//nolint:gochecknoglobals // see above
var long struct {
	options

	wanted bool
}

func TestMain(m *testing.M) {
	flag.BoolVar(&long.wanted, "soak", false, "run the long form")
	flag.IntVar(&long.clients, "clients", 64, "how many clients call at the same time")
	flag.IntVar(&long.hosts, "hosts", 48, "how many hosts there are")
	flag.IntVar(&long.calls, "calls", 40, "how many calls a client makes before a pause in which the answers are checked")
	flag.IntVar(&long.commits, "commits", 100_000, "end after so many composes were committed")
	flag.DurationVar(&long.limit, "duration", 10*time.Minute, "end after this time, with an error if there were fewer commits")
	flag.Uint64Var(&long.seed, "seed", 0, "of what the clients ask for; 0: another one each time")
	flag.StringVar(&long.etcd, "etcd", "", "URL of an empty etcd to use; empty: one in the test's process, which does not sync to disk")
	flag.Parse()
	if long.seed == 0 {
		long.seed = rand.Uint64()
	}
	status := m.Run()
	if err := goleak.Find(); err != nil && status == 0 {
		println(err.Error())
		status = 1
	}
	os.Exit(status) //nolint:forbidigo // the end of a test's process
}
