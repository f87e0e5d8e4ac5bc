package ledger

import (
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// A quota refuses what goes past it, to the last core and byte, and nothing else:
// not who asks for nothing of a resource that is used up.
func TestAQuotaRefusesExactlyWhatGoesPastIt(t *testing.T) {
	refused, let := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		for range 40 {
			n := rapid.Int64Range(0, 4)
			draw := func(label string) (a [4]int64) {
				for i := range a {
					a[i] = n.Draw(t, label)
				}
				return a
			}
			quota, used, want := draw("quota"), draw("used"), draw("want")
			limited := rapid.Uint8Range(0, 15).Draw(t, "limited")
			q := &vmhostv1.ResourceQuota{}
			if limited&1 != 0 {
				q.Machines = proto.Int32(int32(quota[0]))
			}
			for i, limit := range []**int64{&q.Cores, &q.MemoryMib, &q.StorageBytes} {
				if limited&(2<<i) != 0 {
					*limit = proto.Int64(quota[1+i])
				}
			}
			amount := func(a [4]int64) *vmhostv1.ResourceAmount {
				return &vmhostv1.ResourceAmount{Machines: int32(a[0]), Cores: a[1], MemoryMib: a[2], StorageBytes: a[3]}
			}
			past := false
			for i := range quota {
				past = past || (limited>>i&1 != 0 && want[i] > 0 && want[i] > quota[i]-used[i])
			}
			err := checkQuota("p", q, amount(used), amount(want))
			if (err != nil) != past {
				t.Fatalf("of %v, of which %v are used, %v (limited: %04b): %v", quota, used, want, limited, err)
			}
			if past {
				refused++
			} else {
				let++
			}
		}
	})
	if refused == 0 || let == 0 {
		t.Errorf("%d refused, %d let", refused, let)
	}
}
