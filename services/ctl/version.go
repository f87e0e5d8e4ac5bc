package ctl

import (
	"fmt"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/vmhost-project/vmhost/pkg/obs"
)

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Show the version of vmhostctl", Args: takes(0),
		RunE: func(*cobra.Command, []string) error {
			about := struct {
				Version string `json:"version"`
				Go      string `json:"go"`
			}{obs.Version, runtime.Version()}
			return a.printPlain(about, func() error {
				_, err := fmt.Fprintf(a.stdout, "vmhostctl %s (%s)\n", about.Version, about.Go)
				return err
			})
		},
	}
}
