package ctl

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/crypto/ssh"

	"github.com/vmhost-project/vmhost/pkg/hypervisor"
	"github.com/vmhost-project/vmhost/services/ctl/internal/display"
)

const keyComment = "vmhost"

// makeSSHKey makes an SSH key in a file of its own, and says where its public
// part goes. A file that is there is kept: somebody may log in with it.
func (a *app) makeSSHKey(path, address string, dryRun bool) error {
	if path == "" || path == "-" {
		return usage("name the file: --new-ssh-key --ssh-key FILE", "--new-ssh-key needs a file to write to")
	}
	to, err := hypervisor.ParseAddress(address)
	if err != nil || to.Transport != hypervisor.TransportSSH {
		return usage("give --new-ssh-key with an address qemu+ssh://USER@HOST/system", "%s is not reached by SSH", address)
	}
	if _, err := os.Lstat(path); err == nil {
		return usage("leave --new-ssh-key out to use it, or name another file", "%s is there already", path)
	}
	if dryRun {
		return nil
	}
	const hint = "name a file that you can write with --ssh-key"
	line, private, err := newKey()
	if err != nil {
		return local(err, hint, "make an SSH key")
	}
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err == nil {
		_, err = file.Write(private)
		err = errors.Join(err, file.Close())
	}
	if err != nil {
		return local(err, hint, "write the SSH key")
	}
	fmt.Fprintf(a.stderr, "made the SSH key %s; add this line to ~%s/.ssh/authorized_keys on %s:\n\n  %s %s\n\n",
		display.Clean(path), display.Clean(to.User), display.Clean(to.Host), line, keyComment)
	return nil
}

// newKey is a new key, as a line of authorized_keys and as a private key file.
func newKey() (public string, private []byte, err error) {
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return "", nil, err
	}
	block, err := ssh.MarshalPrivateKey(key, keyComment)
	if err != nil {
		return "", nil, err
	}
	line, err := ssh.NewPublicKey(pub)
	if err != nil {
		return "", nil, err
	}
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(line))), pem.EncodeToMemory(block), nil
}
