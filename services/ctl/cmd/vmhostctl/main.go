// Command vmhostctl manages VM hosts and composes machines on them.
package main

import (
	"context"
	"os"

	"github.com/vmhost-project/vmhost/services/ctl"
)

func main() {
	os.Exit(ctl.Run(context.Background(), os.Args[1:], os.Environ(), os.Stdin, os.Stdout, os.Stderr))
}
