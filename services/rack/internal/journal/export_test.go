package journal

// OpenNoSync is Open without fsync, for tests in which nothing crashes.
func OpenNoSync(path string) (*Journal, error) { return open(path, true) }
