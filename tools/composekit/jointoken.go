package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/vmhost-project/vmhost/pkg/client"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
)

// joinToken writes a join token for a rack, unless the rack is enrolled.
func joinToken(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("join-token", flag.ContinueOnError)
	endpoint := flags.String("endpoint", "", "the region's API, host:port")
	caFile := flags.String("ca-file", "", "authority of the region's certificate")
	tokenFile := flags.String("token-file", "", "the administrator's token")
	rack := flags.String("rack", "", "id of the rack")
	file := flags.String("out", "", "file that gets the join token")
	if err := flags.Parse(args); err != nil {
		return err
	}
	ca, err := os.ReadFile(*caFile)
	if err != nil {
		return fmt.Errorf("join-token: %w", err)
	}
	token, err := os.ReadFile(*tokenFile)
	if err != nil {
		return fmt.Errorf("join-token: %w", err)
	}
	c, err := client.Dial(client.Options{Endpoint: *endpoint, Token: strings.TrimSpace(string(token)), CAPEM: ca})
	if err != nil {
		return fmt.Errorf("join-token: %w", err)
	}
	defer func() { _ = c.Close() }()
	switch _, err := c.Racks.GetRack(ctx, &vmhostv1.GetRackRequest{Name: "racks/" + *rack}); status.Code(err) {
	case codes.OK:
		fmt.Fprintln(out, *rack, "is enrolled already")
		return nil
	case codes.NotFound:
	default:
		return fmt.Errorf("join-token: look for the rack: %w", err)
	}
	t, err := c.Racks.CreateJoinToken(ctx, &vmhostv1.CreateJoinTokenRequest{RackId: *rack})
	if err != nil {
		return fmt.Errorf("join-token: %w", err)
	}
	if err := replace(*file, 0o600, []byte(t.GetToken()+"\n")); err != nil {
		return fmt.Errorf("join-token: %w", err)
	}
	fmt.Fprintln(out, "join token for", *rack, "in", *file)
	return nil
}

// replace writes a file at once, so that nobody reads half of it.
func replace(path string, mode fs.FileMode, text []byte) error {
	if err := os.WriteFile(path+".new", text, mode); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}
