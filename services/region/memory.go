package region

import "runtime/debug"

// gcPercent lets the heap grow to three times what lives before it is collected,
// instead of twice: what a region holds, the copy of the state, lives long, and
// walking it took a fifth of the processor under load.
const gcPercent = 200

// TuneMemory sets the garbage collector for a process with a region in it. An
// operator's GOGC wins; GOMEMLIMIT works as ever.
func TuneMemory(getenv func(string) string) {
	if getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
}
