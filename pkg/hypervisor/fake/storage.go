package fake

import (
	"iter"
	"sync"
)

// storage is what is behind a pool of a host, or of several: volumes that each of them
// shows. Its lock is taken with that of a host held, never the other way round.
type storage struct {
	mu      sync.Mutex
	volumes map[string]volume // by name
	filled  int64             // what they have allocated
}

func newStorage() *storage { return &storage{volumes: map[string]volume{}} }

// behind is the storage of an identity, made when it is first named. It is called with
// f.mu held.
func (f *Fleet) behind(identity string) *storage {
	if f.shared == nil {
		f.shared = map[string]*storage{}
	}
	s := f.shared[identity]
	if s == nil {
		s = newStorage()
		f.shared[identity] = s
	}
	return s
}

// PutVolume adds a volume without vmhost.
func (h *Host) PutVolume(pool, name string, size int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.putVolume(volumeKey{pool, name}, volume{size: size, allocation: size})
}

// Write puts something into a volume that is there.
func (h *Host) Write(pool, name, content string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if v, ok := h.volume(volumeKey{pool, name}); ok {
		v.content = content
		h.putVolume(volumeKey{pool, name}, v)
	}
}

// Read is what was put into a volume; false when it is not there.
func (h *Host) Read(pool, name string) (content string, there bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	v, there := h.volume(volumeKey{pool, name})
	return v.content, there
}

// The rest is called with h.mu held.

// storageOf is what is behind a pool. Who puts something there by hand may name one that
// the host has not.
func (h *Host) storageOf(pool string) *storage {
	s := h.storages[pool]
	if s == nil {
		s = newStorage()
		if h.storages == nil {
			h.storages = map[string]*storage{}
		}
		h.storages[pool] = s
	}
	return s
}

// identity is what says that a pool of another host is the same one; empty when none is.
func (h *Host) identity(pool string) string {
	p, _ := h.spec.pool(pool)
	return p.Shared
}

// volumesIn are the volumes of a pool, by name. Whoever goes through them changes none.
func (h *Host) volumesIn(pool string) iter.Seq2[string, volume] {
	return func(yield func(string, volume) bool) {
		s := h.storageOf(pool)
		s.mu.Lock()
		defer s.mu.Unlock()
		for name, v := range s.volumes {
			if !yield(name, v) {
				return
			}
		}
	}
}

// filled is what the volumes of a pool have allocated.
func (h *Host) filled(pool string) int64 {
	s := h.storageOf(pool)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.filled
}

func (h *Host) volume(k volumeKey) (volume, bool) {
	s := h.storageOf(k.pool)
	s.mu.Lock()
	defer s.mu.Unlock()
	v, there := s.volumes[k.name]
	return v, there
}

func (h *Host) putVolume(k volumeKey, v volume) {
	s := h.storageOf(k.pool)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.filled += v.allocation - s.volumes[k.name].allocation
	s.volumes[k.name] = v
	h.journal.putVolume(h.spec.Name, k, v) // in the order of what is done
}

func (h *Host) dropVolume(k volumeKey) {
	s := h.storageOf(k.pool)
	s.mu.Lock()
	defer s.mu.Unlock()
	if v, ok := s.volumes[k.name]; ok {
		s.filled -= v.allocation
		delete(s.volumes, k.name)
		h.journal.dropVolume(h.spec.Name, k)
	}
}
