package store

// Gifts is how many given values the store waits to see.
func (s *Store) Gifts() int {
	s.gifts.mu.Lock()
	defer s.gifts.mu.Unlock()
	return len(s.gifts.byKey)
}

// ByWire says whether the store has a connection of its own.
func (s *Store) ByWire() bool { return s.wire != nil }
