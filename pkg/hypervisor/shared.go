package hypervisor

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
)

// maxIdentity is how long the word for what is behind a storage pool is at most.
const maxIdentity = 255

// SharedIdentity is the word for what is behind a storage pool that several hosts
// can have, `kind://where/name`: the same on each of them, in printable ASCII and
// without spaces. Drivers that can tell give it in StoragePool.shared.
func SharedIdentity(kind, where, name string) string {
	out := kind + "://" + printable(where) + "/" + printable(name)
	if len(out) > maxIdentity {
		sum := sha256.Sum256([]byte(out))
		return kind + "://sha256/" + hex.EncodeToString(sum[:])
	}
	return out
}

// printable writes what is no printable ASCII as `%XX`.
func printable(s string) string {
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; c > ' ' && c <= '~' && c != '%' {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}
