package measure

import (
	"context"
	"os"
	"strconv"
	"strings"
	"time"
)

const (
	quietShare = 0.70
	quietFor   = 500 * time.Millisecond
	quietLimit = 15 * time.Second
)

// Quiet waits until most of the machine has been idle for a moment, and not for
// ever: a run on a busy machine is still a comparison, since both sides have it.
func Quiet(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, quietLimit)
	defer cancel()
	for {
		before := ticksNow()
		select {
		case <-ctx.Done():
			return
		case <-time.After(quietFor):
		}
		now := ticksNow().since(before)
		if now.all <= 0 || float64(now.idle)/float64(now.all) >= quietShare {
			return
		}
	}
}

// Stolen begins to look at what the machine below this one, if it is a virtual one,
// does for others. What it answers with says which share of all processor time since
// was wanted and not given.
func Stolen() func() float64 {
	before := ticksNow()
	return func() float64 {
		now := ticksNow().since(before)
		if now.all <= 0 {
			return 0
		}
		return float64(now.stolen) / float64(now.all)
	}
}

// ticks is processor time: all of it, and what of it nobody used and what was wanted
// and not given. All are 0 where /proc does not say.
type ticks struct{ all, idle, stolen int64 }

func (t ticks) since(before ticks) ticks {
	return ticks{t.all - before.all, t.idle - before.idle, t.stolen - before.stolen}
}

func ticksNow() ticks {
	stat, err := os.ReadFile("/proc/stat")
	if err != nil {
		return ticks{}
	}
	line, _, _ := strings.Cut(string(stat), "\n")
	var now ticks
	for i, f := range strings.Fields(line) {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil || i > 8 { // 0 is the word cpu; guest time is in user time already
			continue
		}
		now.all += n
		switch i {
		case 4, 5: // idle, and waiting for a disk
			now.idle += n
		case 8:
			now.stolen += n
		}
	}
	return now
}
