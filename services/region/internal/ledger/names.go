package ledger

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
)

// maxInstanceName is how long names on LXD may be.
const maxInstanceName = 63

// hypervisorName is a machine's name on hypervisors that are not LXD.
func hypervisorName(hostname, pool string) string {
	if pool == defaultPool {
		return hostname
	}
	return hostname + "." + pool
}

// instanceName is a machine's name on LXD, which takes letters, digits and dashes
// only, at most 63, and not a number. What that makes long or ambiguous ends with
// a hash of the whole, so that two machines have the same name only if LXD's own
// list already says so.
func instanceName(hostname, pool string) string {
	if pool == defaultPool && strings.Trim(hostname, "0123456789") != "" {
		return hostname
	}
	name := hostname + "--" + pool
	if len(name) <= maxInstanceName && !strings.Contains(hostname, "--") && !strings.Contains(pool, "--") {
		return name
	}
	sum := sha256.Sum256([]byte(hostname + "/" + pool))
	hash := hex.EncodeToString(sum[:])[:8]
	return strings.TrimRight(name[:min(len(name), maxInstanceName-len(hash)-2)], "-") + "--" + hash
}
