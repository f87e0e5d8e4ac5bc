package fake

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"google.golang.org/protobuf/encoding/protojson"

	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
)

// journal is a fleet's file: one JSON object per change, appended, so that a
// change costs the same whatever the fleet holds. It is written anew, short, at
// every start. A nil journal keeps nothing.
type journal struct {
	mu   sync.Mutex
	file *os.File
	err  error // the first failure; reported by close
}

// entry is one line. Without a machine, a volume's size and a note it is a removal.
type entry struct {
	Host       string          `json:"host"`
	UUID       string          `json:"uuid,omitempty"`
	Machine    json.RawMessage `json:"machine,omitempty"`
	Pool       string          `json:"pool,omitempty"`
	Volume     string          `json:"volume,omitempty"`
	Size       *int64          `json:"size,omitempty"`
	Allocation int64           `json:"allocation,omitempty"`
	Content    string          `json:"content,omitempty"`
	// Stopped is the operation that stopped the machine to move it, or that none has.
	Stopped *string `json:"stopped,omitempty"`
}

func (j *journal) putMachine(host string, m *rackv1.MachineObservation) {
	if j == nil {
		return
	}
	raw, err := protojson.Marshal(m)
	j.write(entry{Host: host, UUID: m.GetUuid(), Machine: raw}, err)
}

func (j *journal) dropMachine(host, uuid string) {
	if j != nil {
		j.write(entry{Host: host, UUID: uuid}, nil)
	}
}

func (j *journal) putVolume(host string, k volumeKey, v volume) {
	if j != nil {
		j.write(entry{Host: host, Pool: k.pool, Volume: k.name, Size: &v.size, Allocation: v.allocation, Content: v.content}, nil)
	}
}

func (j *journal) dropVolume(host string, k volumeKey) {
	if j != nil {
		j.write(entry{Host: host, Pool: k.pool, Volume: k.name}, nil)
	}
}

func (j *journal) putNote(host, uuid, operation string) {
	if j != nil {
		j.write(entry{Host: host, UUID: uuid, Stopped: &operation}, nil)
	}
}

func (j *journal) write(e entry, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.err != nil {
		return
	}
	line, encodeErr := json.Marshal(e)
	if err = errors.Join(err, encodeErr); err == nil {
		_, err = j.file.Write(append(line, '\n'))
	}
	j.err = err
}

func (j *journal) close() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	err := j.err
	j.err = fs.ErrClosed
	return errors.Join(err, j.file.Close())
}

// load reads a file back, writes it anew and keeps it open.
func (f *Fleet) load(path string) error {
	if err := f.replay(path); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return fmt.Errorf("write anew: %w", err)
	}
	j := &journal{file: tmp}
	for _, name := range f.Names() {
		h := f.Host(name)
		h.journal = j
		for _, p := range h.spec.Pools { // a shared pool once for each host: the same again
			for volume, v := range h.volumesIn(p.Name) {
				j.putVolume(name, volumeKey{p.Name, volume}, v)
			}
		}
		for _, m := range h.machines {
			j.putMachine(name, m)
		}
		for uuid, operation := range h.stopped {
			j.putNote(name, uuid, operation)
		}
	}
	if err := errors.Join(j.err, os.Rename(tmp.Name(), path)); err != nil {
		return errors.Join(fmt.Errorf("write anew: %w", err), tmp.Close(), os.Remove(tmp.Name()))
	}
	f.journal = j
	return nil
}

func (f *Fleet) replay(path string) error {
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	defer func() { _ = file.Close() }()
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20)
	var torn error
	for lines.Scan() {
		if torn != nil { // only the last line can be cut short by a kill
			return torn
		}
		var e entry
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			torn = fmt.Errorf("decode line: %w", err)
			continue
		}
		if err := f.apply(e); err != nil {
			return err
		}
	}
	return lines.Err()
}

func (f *Fleet) apply(e entry) error {
	h := f.Host(e.Host)
	if h == nil { // taken out of the configuration
		return nil
	}
	switch {
	case e.Machine != nil:
		m := &rackv1.MachineObservation{}
		if err := protojson.Unmarshal(e.Machine, m); err != nil {
			return fmt.Errorf("decode machine: %w", err)
		}
		h.putMachine(m)
	case e.Stopped != nil:
		h.setNote(e.UUID, *e.Stopped)
	case e.UUID != "":
		h.dropMachine(e.UUID)
	case e.Size != nil:
		h.putVolume(volumeKey{e.Pool, e.Volume}, volume{*e.Size, e.Allocation, e.Content})
	default:
		h.dropVolume(volumeKey{e.Pool, e.Volume})
	}
	return nil
}
