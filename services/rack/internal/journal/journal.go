// Package journal is what a rack remembers over restarts: the steps it accepted,
// the results that the region has not acknowledged, and the largest epoch it has
// seen of every host.
//
// Invariants: what a method reported as done is on disk (fsync); an epoch never
// goes down; a result stays until its acknowledgement. A step that was accepted
// and has no result was interrupted: the region sends it again, and drivers are
// idempotent.
//
// The one goroutine it owns writes for all callers together, so that a thousand
// steps at once cost a few syncs; it ends with Close. The journal decides
// nothing about steps.
package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.etcd.io/bbolt"
	"google.golang.org/protobuf/proto"

	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
)

// ErrStaleEpoch says that a newer epoch of the host was seen.
var ErrStaleEpoch = errors.New("stale epoch")

// errClosed is answered after Close.
var errClosed = errors.New("journal is closed")

const (
	// forget is how old an interrupted step becomes: no operation lives longer.
	forget = 30 * 24 * time.Hour
	// lockTimeout is how long another process may take to let go of the file.
	lockTimeout = 5 * time.Second
	// batch bounds the writes that share a sync.
	batch = 512
)

// Journal is an open journal. It is safe for concurrent use.
type Journal struct {
	db     *bbolt.DB
	writes chan write
	closed chan struct{}
	ended  chan struct{}
	once   sync.Once

	mu     sync.Mutex
	epochs map[string]int64 // as on disk or ahead of it
}

type write struct {
	do   func(tx *bbolt.Tx) error
	done chan<- error // nil when nobody waits
}

type buckets struct{ accepted, results, epochs []byte }

func names() buckets {
	return buckets{accepted: []byte("accepted"), results: []byte("results"), epochs: []byte("epochs")}
}

// Open opens or makes the journal in a file that no other process has open.
func Open(path string) (*Journal, error) { return open(path, false) }

func open(path string, noSync bool) (*Journal, error) {
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: lockTimeout, FreelistType: bbolt.FreelistMapType, NoSync: noSync})
	if err != nil {
		return nil, fmt.Errorf("open journal %s: %w", path, err)
	}
	j := &Journal{
		db: db, writes: make(chan write, batch), closed: make(chan struct{}), ended: make(chan struct{}),
		epochs: map[string]int64{},
	}
	if err := db.Update(j.load); err != nil {
		return nil, errors.Join(fmt.Errorf("read journal %s: %w", path, err), db.Close())
	}
	go j.run()
	return j, nil
}

func (j *Journal) load(tx *bbolt.Tx) error {
	b := names()
	for _, name := range [][]byte{b.accepted, b.results, b.epochs} {
		if _, err := tx.CreateBucketIfNotExists(name); err != nil {
			return fmt.Errorf("make bucket %s: %w", name, err)
		}
	}
	var old [][]byte
	limit := time.Now().Add(-forget).UnixNano()
	if err := tx.Bucket(b.accepted).ForEach(func(id, at []byte) error {
		if len(at) != 8 || int64(binary.BigEndian.Uint64(at)) < limit {
			old = append(old, append([]byte(nil), id...))
		}
		return nil
	}); err != nil {
		return fmt.Errorf("read accepted steps: %w", err)
	}
	for _, id := range old {
		if err := tx.Bucket(b.accepted).Delete(id); err != nil {
			return fmt.Errorf("forget step: %w", err)
		}
	}
	return tx.Bucket(b.epochs).ForEach(func(uid, epoch []byte) error {
		if len(epoch) != 8 {
			return fmt.Errorf("epoch of %s has %d bytes", uid, len(epoch))
		}
		j.epochs[string(uid)] = int64(binary.BigEndian.Uint64(epoch))
		return nil
	})
}

// Close ends the journal; what was asked for before is written.
func (j *Journal) Close() error {
	var err error
	j.once.Do(func() {
		close(j.closed)
		<-j.ended
		if err = j.db.Close(); err != nil {
			err = fmt.Errorf("close journal: %w", err)
		}
	})
	return err
}

// run is the writer.
func (j *Journal) run() {
	defer close(j.ended)
	for {
		select {
		case w := <-j.writes:
			j.commit(j.drain([]write{w}))
		case <-j.closed:
			for rest := j.drain(nil); len(rest) > 0; rest = j.drain(nil) {
				j.commit(rest)
			}
			return
		}
	}
}

func (j *Journal) drain(writes []write) []write {
	for len(writes) < batch {
		select {
		case w := <-j.writes:
			writes = append(writes, w)
		default:
			return writes
		}
	}
	return writes
}

func (j *Journal) commit(writes []write) {
	err := j.db.Update(func(tx *bbolt.Tx) error {
		for _, w := range writes {
			if err := w.do(tx); err != nil {
				return err
			}
		}
		return nil
	})
	for _, w := range writes {
		if w.done != nil {
			w.done <- err
		}
	}
}

// write returns when do is on disk.
func (j *Journal) write(do func(tx *bbolt.Tx) error) error {
	done := make(chan error, 1)
	select {
	case <-j.closed:
		return errClosed
	default:
	}
	select {
	case j.writes <- write{do: do, done: done}:
	case <-j.closed:
		return errClosed
	}
	select {
	case err := <-done:
		return err
	case <-j.ended:
		select {
		case err := <-done:
			return err
		default:
			return errClosed
		}
	}
}

// Accept records that a step will be done, and the epoch it carries. A step of
// an older epoch than the largest of its host is ErrStaleEpoch. For a step that
// has a result already, Accept returns that and records nothing.
func (j *Journal) Accept(step *rackv1.Step) (*rackv1.StepResult, error) {
	if uid := step.GetVmHostUid(); uid != "" && !j.Raise(uid, step.GetEpoch()) {
		return nil, fmt.Errorf("accept step %s: epoch %d, seen %d: %w", step.GetId(), step.GetEpoch(), j.Epoch(uid), ErrStaleEpoch)
	}
	result, err := j.Result(step.GetId())
	if err != nil {
		return nil, err
	}
	if result != nil {
		return result, j.Persist(step.GetVmHostUid())
	}
	at := binary.BigEndian.AppendUint64(nil, uint64(time.Now().UnixNano()))
	err = j.write(func(tx *bbolt.Tx) error {
		if err := j.putEpoch(tx, step.GetVmHostUid()); err != nil {
			return err
		}
		return tx.Bucket(names().accepted).Put([]byte(step.GetId()), at)
	})
	if err != nil {
		return nil, fmt.Errorf("accept step %s: %w", step.GetId(), err)
	}
	return nil, nil //nolint:nilnil // no result yet is what is expected
}

// Accepted says whether a step of that id was accepted, and its result not
// acknowledged, also before this process.
func (j *Journal) Accepted(id string) (bool, error) {
	found := false
	err := j.db.View(func(tx *bbolt.Tx) error {
		found = tx.Bucket(names().accepted).Get([]byte(id)) != nil || tx.Bucket(names().results).Get([]byte(id)) != nil
		return nil
	})
	if err != nil {
		return false, fmt.Errorf("look for step %s: %w", id, err)
	}
	return found, nil
}

// Finish records a result, to be sent until it is acknowledged.
func (j *Journal) Finish(result *rackv1.StepResult) error {
	raw, err := proto.Marshal(result)
	if err != nil {
		return fmt.Errorf("encode result of step %s: %w", result.GetId(), err)
	}
	err = j.write(func(tx *bbolt.Tx) error {
		if err := tx.Bucket(names().results).Put([]byte(result.GetId()), raw); err != nil {
			return err
		}
		return tx.Bucket(names().accepted).Delete([]byte(result.GetId()))
	})
	if err != nil {
		return fmt.Errorf("record result of step %s: %w", result.GetId(), err)
	}
	return nil
}

// Ack forgets a result. It does not wait for the disk: a result that comes back
// after a crash is sent and acknowledged again.
func (j *Journal) Ack(id string) {
	if result, err := j.Result(id); result == nil && err == nil {
		return // of a step that was not kept
	}
	w := write{do: func(tx *bbolt.Tx) error { return tx.Bucket(names().results).Delete([]byte(id)) }}
	select {
	case j.writes <- w:
	case <-j.closed:
	}
}

// Result is the recorded result of a step, nil when there is none.
func (j *Journal) Result(id string) (*rackv1.StepResult, error) {
	var out *rackv1.StepResult
	err := j.db.View(func(tx *bbolt.Tx) error {
		raw := tx.Bucket(names().results).Get([]byte(id))
		if raw == nil {
			return nil
		}
		out = &rackv1.StepResult{}
		return proto.Unmarshal(raw, out)
	})
	if err != nil {
		return nil, fmt.Errorf("read result of step %s: %w", id, err)
	}
	return out, nil
}

// Results are all results that were not acknowledged.
func (j *Journal) Results() ([]*rackv1.StepResult, error) {
	var out []*rackv1.StepResult
	err := j.db.View(func(tx *bbolt.Tx) error {
		return tx.Bucket(names().results).ForEach(func(_, raw []byte) error {
			r := &rackv1.StepResult{}
			if err := proto.Unmarshal(raw, r); err != nil {
				return err
			}
			out = append(out, r)
			return nil
		})
	})
	if err != nil {
		return nil, fmt.Errorf("read results: %w", err)
	}
	return out, nil
}

// Interrupted are the ids of steps that were accepted and have no result.
func (j *Journal) Interrupted() ([]string, error) {
	var out []string
	err := j.db.View(func(tx *bbolt.Tx) error {
		return tx.Bucket(names().accepted).ForEach(func(id, _ []byte) error {
			out = append(out, string(id))
			return nil
		})
	})
	if err != nil {
		return nil, fmt.Errorf("read accepted steps: %w", err)
	}
	return out, nil
}

// Epoch is the largest epoch seen of a host, 0 when none was.
func (j *Journal) Epoch(uid string) int64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.epochs[uid]
}

// Raise notes an epoch, in memory; false when a larger one was seen. Persist, or
// Accept, puts it on disk.
func (j *Journal) Raise(uid string, epoch int64) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	if epoch < j.epochs[uid] {
		return false
	}
	j.epochs[uid] = epoch
	return true
}

// Persist puts the largest epoch seen of a host on disk.
func (j *Journal) Persist(uid string) error {
	if err := j.write(func(tx *bbolt.Tx) error { return j.putEpoch(tx, uid) }); err != nil {
		return fmt.Errorf("record epoch of host %s: %w", uid, err)
	}
	return nil
}

func (j *Journal) putEpoch(tx *bbolt.Tx, uid string) error {
	if uid == "" {
		return nil
	}
	// Read when it is written: it may have grown since, and never shrinks.
	return tx.Bucket(names().epochs).Put([]byte(uid), binary.BigEndian.AppendUint64(nil, uint64(j.Epoch(uid))))
}
