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
		idle, total := cpuTime()
		select {
		case <-ctx.Done():
			return
		case <-time.After(quietFor):
		}
		idle2, total2 := cpuTime()
		if total2 <= total || float64(idle2-idle)/float64(total2-total) >= quietShare {
			return
		}
	}
}

// cpuTime is how long the processors have been idle, of how long altogether, in
// ticks. Both are 0 where /proc does not say.
func cpuTime() (idle, total int64) {
	stat, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, 0
	}
	line, _, _ := strings.Cut(string(stat), "\n")
	for i, f := range strings.Fields(line) {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil || i > 8 { // 0 is the word cpu; guest time is in user time already
			continue
		}
		total += n
		if i == 4 || i == 5 { // idle, and waiting for a disk
			idle += n
		}
	}
	return idle, total
}
