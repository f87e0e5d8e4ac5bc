package inventory

import "github.com/google/uuid"

// DiscoveredUID is the uid of a machine that was found on a host: it follows
// from the host's uid and the hypervisor's uuid of the machine.
func DiscoveredUID(hostUID, hypervisorUUID string) string {
	space, err := uuid.Parse(hostUID)
	if err != nil {
		space = uuid.NewSHA1(uuid.Nil, []byte(hostUID))
	}
	return uuid.NewSHA1(space, []byte(hypervisorUUID)).String()
}
