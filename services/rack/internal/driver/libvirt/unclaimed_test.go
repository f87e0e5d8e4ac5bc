package libvirt

import "testing"

func TestAVolumeIsNamedAfterItsMachine(t *testing.T) {
	const uid = "0190f2a0-0000-7000-8000-00000000000a"
	for name, want := range map[string]string{
		volumePrefix(uid) + "0": uid,
		logVolume(uid):          uid,
		"vmhost-" + uid:         "",
		"vmhost-" + uid + "x0":  "",
		"vmhost-not-a-uuid-at-all-but-as-long-as-it-0": "",
		"disk-" + uid + "-0":                           "",
		"vmhost-":                                      "",
	} {
		if got, ok := ownerByName(name); ok != (want != "") || ok && got != want {
			t.Errorf("%s is of %q, want %q", name, got, want)
		}
	}
}
