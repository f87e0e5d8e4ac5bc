package standalone

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// lock makes sure that one process at a time uses the data folder. The lock goes
// with the process, however it ends.
func lock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the data folder: %w", err)
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if err == nil {
		return f, nil
	}
	_ = f.Close()
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return nil, fmt.Errorf("another vmhost uses this data folder (%s is locked): end it, or use another --data-dir", path)
	}
	return nil, fmt.Errorf("lock the data folder: %w", err)
}
