package ctl

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/crypto/ssh"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	"github.com/vmhost-project/vmhost/services/ctl/internal/display"
)

// makeSSHKey makes an SSH key in a file of its own, and says where its public
// part goes. A file that is there is kept: somebody may log in with it.
func (a *app) makeSSHKey(path, address string) error {
	if path == "" || path == "-" {
		return usage("name the file: --new-ssh-key --ssh-key FILE", "--new-ssh-key needs a file to write to")
	}
	public, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return fmt.Errorf("make an SSH key: %w", err)
	}
	block, err := ssh.MarshalPrivateKey(key, "vmhost")
	if err != nil {
		return fmt.Errorf("encode an SSH key: %w", err)
	}
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return usage("leave --new-ssh-key out to use it, or name another file", "%s is there already", path)
	}
	if err != nil {
		return local(err, "name a file that you can write with --ssh-key", "write the SSH key")
	}
	_, err = file.Write(pem.EncodeToMemory(block))
	if err = errors.Join(err, file.Close()); err != nil {
		return local(err, "name a file that you can write with --ssh-key", "write the SSH key")
	}
	line, err := ssh.NewPublicKey(public)
	if err != nil {
		return fmt.Errorf("encode an SSH key: %w", err)
	}
	user, host := "root", address
	if parsed, err := hypervisor.ParseAddress(address); err == nil && parsed.User != "" {
		user, host = parsed.User, parsed.Host
	}
	fmt.Fprintf(a.stderr, "made the SSH key %s; add this line to ~%s/.ssh/authorized_keys on %s:\n\n  %s vmhost\n\n",
		display.Clean(path), display.Clean(user), display.Clean(host), strings.TrimSpace(string(ssh.MarshalAuthorizedKey(line))))
	return nil
}
