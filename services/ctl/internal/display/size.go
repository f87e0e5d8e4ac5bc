package display

import (
	"fmt"
	"strings"

	"github.com/vmhost-project/vmhost/pkg/units"
)

// shortEnough is the length up to which an exact size is shown as it is.
const shortEnough = 7

// Bytes is a size for people: exact where that is short, else three digits in
// decimal units, as storage is sold.
func Bytes(n int64) string {
	return short(n, 1000, "B", "kB", "MB", "GB", "TB", "PB", "EB")
}

// MiB is an amount of memory for people, in binary units.
func MiB(n int64) string {
	return short(n<<20, 1024, "B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
}

func short(n int64, base float64, names ...string) string {
	if exact := units.FormatBytes(n); len(exact) <= shortEnough {
		return exact
	}
	value, i := float64(n), 0
	for value >= base && i < len(names)-1 {
		value /= base
		i++
	}
	digits := 2
	if value >= 100 {
		digits = 0
	} else if value >= 10 {
		digits = 1
	}
	text := fmt.Sprintf("%.*f", digits, value)
	if strings.Contains(text, ".") {
		text = strings.TrimRight(strings.TrimRight(text, "0"), ".")
	}
	return text + names[i]
}
