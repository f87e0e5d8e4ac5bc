package ledger

import (
	"slices"

	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
)

// add is the ledger with one more machine.
func add(l *storev1.StoredLedger, c *storev1.Commitment) {
	if l.GetTotal() == nil {
		l.Total = &storev1.Commitment{}
	}
	l.Machines++
	total := l.GetTotal()
	total.Cores += c.GetCores()
	total.MemoryMib += c.GetMemoryMib()
	total.HugepagesMib += c.GetHugepagesMib()
	for pool, bytes := range c.GetStorageBytes() {
		if total.StorageBytes == nil {
			total.StorageBytes = map[string]int64{}
		}
		total.StorageBytes[pool] += bytes
	}
	for device, n := range c.GetSriovFunctions() {
		if total.SriovFunctions == nil {
			total.SriovFunctions = map[string]int32{}
		}
		total.SriovFunctions[device] += n
	}
	for group, n := range c.GetGroups() {
		if total.Groups == nil {
			total.Groups = map[string]int32{}
		}
		total.Groups[group] += n
	}
	total.PinnedCores = join(total.GetPinnedCores(), c.GetPinnedCores())
	total.FixedAddresses = join(total.GetFixedAddresses(), c.GetFixedAddresses())
}

// subtract is the ledger with one machine less. It never goes below nothing.
func subtract(l *storev1.StoredLedger, c *storev1.Commitment) {
	if l.GetTotal() == nil {
		l.Total = &storev1.Commitment{}
	}
	l.Machines = max(l.GetMachines()-1, 0)
	total := l.GetTotal()
	total.Cores = max(total.GetCores()-c.GetCores(), 0)
	total.MemoryMib = max(total.GetMemoryMib()-c.GetMemoryMib(), 0)
	total.HugepagesMib = max(total.GetHugepagesMib()-c.GetHugepagesMib(), 0)
	for pool, bytes := range c.GetStorageBytes() {
		if left := total.GetStorageBytes()[pool] - bytes; left > 0 {
			total.StorageBytes[pool] = left
		} else {
			delete(total.GetStorageBytes(), pool)
		}
	}
	for device, n := range c.GetSriovFunctions() {
		if left := total.GetSriovFunctions()[device] - n; left > 0 {
			total.SriovFunctions[device] = left
		} else {
			delete(total.GetSriovFunctions(), device)
		}
	}
	for group, n := range c.GetGroups() {
		if left := total.GetGroups()[group] - n; left > 0 {
			total.Groups[group] = left
		} else {
			delete(total.GetGroups(), group)
		}
	}
	total.PinnedCores = without(total.GetPinnedCores(), c.GetPinnedCores())
	total.FixedAddresses = without(total.GetFixedAddresses(), c.GetFixedAddresses())
}

// join is the sorted list of what either has. What two machines hold, as after a
// move, is in it twice, so that one may let go of it.
func join[T int32 | string](all, more []T) []T {
	if len(more) == 0 {
		return all
	}
	out := slices.Concat(all, more)
	slices.Sort(out)
	return out
}

// without is the list with each of less taken out once.
func without[T int32 | string](all, less []T) []T {
	if len(less) == 0 {
		return all
	}
	out := slices.Clone(all)
	for _, x := range less {
		if i := slices.Index(out, x); i >= 0 {
			out = slices.Delete(out, i, i+1)
		}
	}
	if len(out) == 0 {
		return nil
	}
	return out
}
