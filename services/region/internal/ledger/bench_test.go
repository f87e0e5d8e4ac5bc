package ledger

import (
	"strconv"
	"testing"

	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store/storetest"
)

// clients64 runs as many goroutines as make 64 on this machine.
func clients64(b *testing.B, call func() error) {
	b.SetParallelism(32)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := call(); err != nil {
				b.Error(err)
				return
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "commits/s")
}

func BenchmarkCommit64Clients(b *testing.B) {
	for _, hosts := range []int{1, 20, 200} {
		b.Run(strconv.Itoa(hosts)+"hosts", func(b *testing.B) {
			s := storetest.New(b)
			l := open(b, s)
			for i := range hosts {
				addHost(b, s, "h"+strconv.Itoa(i), 1<<20, 1<<40)
			}
			clients64(b, func() error {
				_, err := l.Compose(b.Context(), "bench", &vmhostv1.ComposeMachineRequest{Cores: 1, MemoryMib: 1, Disks: []*vmhostv1.DiskRequest{{SizeBytes: 1 << 20}}})
				return err
			})
		})
	}
}
