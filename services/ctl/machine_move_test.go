package ctl

import (
	"testing"

	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

func TestADrainShowsWhichDisksStay(t *testing.T) {
	how := drainColumns(nil, true)[2]
	for want, row := range map[string]*vmhostv1.DrainedMachine{
		"live":                       {How: "live", CopiedDisks: 2},
		"live, disks stay":           {How: "live", StayingDisks: 2},
		"offline, 1 of 2 disks stay": {How: "offline", StayingDisks: 1, CopiedDisks: 1},
		"disks stay":                 {StayingDisks: 1},
		"-":                          {},
	} {
		if got := how.Cell(row); got != want {
			t.Errorf("shows %q, want %q", got, want)
		}
	}
}
