package bootstrap

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"google.golang.org/protobuf/types/known/timestamppb"

	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
	"github.com/vmhost-project/vmhost/services/region/internal/token"
)

// adminPrincipal is whom the first token stands for.
const adminPrincipal = "admin"

// putAdminToken adds the first token to tx. The file is there before the
// transaction: a crash in between leaves a token that the next start makes good,
// where the other order would leave one that nobody knows. Regions that share
// the file share the token. undo removes a file that was made here and whose
// token came to nothing; another region may have made it good.
func putAdminToken(tx *store.Txn, path string) (undo func(*store.View) error, err error) {
	nothing := func(*store.View) error { return nil }
	if path == "" {
		return nothing, nil
	}
	text, _, _, err := token.New(adminPrincipal, storev1.Role_ROLE_ADMIN, 0)
	if err != nil {
		return nothing, err
	}
	made, err := writeNew(path, text+"\n")
	if err != nil {
		return nothing, err
	}
	id, secret, err := readAdminToken(path)
	if errors.Is(err, fs.ErrNotExist) {
		// Another region has taken its own file away: the deployment is made.
		return nothing, store.ErrConflict
	}
	if err != nil {
		return nothing, err
	}
	undo = nothing
	if made {
		undo = func(v *store.View) error {
			if _, good := store.Tokens.Get(v, id); good {
				return nil
			}
			return os.Remove(path)
		}
	}
	hash := sha256.Sum256(secret)
	store.Put(tx, store.Tokens, &storev1.StoredToken{
		SecretSha256: hash[:], Principal: adminPrincipal, Role: storev1.Role_ROLE_ADMIN, CreateTime: timestamppb.Now(),
	}, id)
	return undo, nil
}

// writeNew writes a file that only its owner may read, unless there is one. A
// reader never sees half of it.
func writeNew(path, text string) (made bool, err error) {
	tmp, err := os.CreateTemp(filepath.Dir(path), ".admin-token-*") // mode 0600
	if err != nil {
		return false, fmt.Errorf("create the admin token file: %w", err)
	}
	defer func() { _ = os.Remove(tmp.Name()) }()
	_, err = tmp.WriteString(text)
	if err := errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return false, fmt.Errorf("write the admin token file: %w", err)
	}
	switch err := os.Link(tmp.Name(), path); {
	case errors.Is(err, fs.ErrExist):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("put the admin token file in place: %w", err)
	}
	return true, nil
}

func readAdminToken(path string) (id string, secret []byte, err error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", nil, fmt.Errorf("look at the admin token file: %w", err)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return "", nil, fmt.Errorf("admin token file %s has mode %#o and may be read by others; make it 0600", path, mode)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return "", nil, fmt.Errorf("read the admin token file: %w", err)
	}
	id, secret, ok := token.Parse(strings.TrimSpace(string(data)))
	if !ok {
		return "", nil, fmt.Errorf("admin token file %s holds no token; remove it to have one made", path)
	}
	return id, secret, nil
}
