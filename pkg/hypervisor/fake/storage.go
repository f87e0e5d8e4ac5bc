package fake

import (
	"iter"
	"sync"
)

// storage is what is behind a pool of several hosts: volumes that each of them shows.
// Its lock is taken with that of a host held, never the other way round.
type storage struct {
	mu      sync.Mutex
	volumes map[string]volume // by name
}

// behind is the storage of an identity, made when it is first named. It is called with
// f.mu held.
func (f *Fleet) behind(identity string) *storage {
	if f.shared == nil {
		f.shared = map[string]*storage{}
	}
	s := f.shared[identity]
	if s == nil {
		s = &storage{volumes: map[string]volume{}}
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

// volumesIn are the volumes of a pool, by name. Whoever goes through them changes none.
func (h *Host) volumesIn(pool string) iter.Seq2[string, volume] {
	return func(yield func(string, volume) bool) {
		if s := h.shared[pool]; s != nil {
			s.mu.Lock()
			defer s.mu.Unlock()
			for name, v := range s.volumes {
				if !yield(name, v) {
					return
				}
			}
			return
		}
		for k, v := range h.volumes {
			if k.pool == pool && !yield(k.name, v) {
				return
			}
		}
	}
}

func (h *Host) volume(k volumeKey) (volume, bool) {
	if s := h.shared[k.pool]; s != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		v, there := s.volumes[k.name]
		return v, there
	}
	v, there := h.volumes[k]
	return v, there
}

func (h *Host) putVolume(k volumeKey, v volume) {
	if s := h.shared[k.pool]; s != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.volumes[k.name] = v
		h.journal.putVolume(h.spec.Name, k, v) // in the order of what is done
		return
	}
	if h.volumes == nil {
		h.volumes = map[volumeKey]volume{}
	}
	h.volumes[k] = v
	h.journal.putVolume(h.spec.Name, k, v)
}

func (h *Host) dropVolume(k volumeKey) {
	if s := h.shared[k.pool]; s != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		if _, ok := s.volumes[k.name]; ok {
			delete(s.volumes, k.name)
			h.journal.dropVolume(h.spec.Name, k)
		}
		return
	}
	if _, ok := h.volumes[k]; !ok {
		return
	}
	delete(h.volumes, k)
	h.journal.dropVolume(h.spec.Name, k)
}
