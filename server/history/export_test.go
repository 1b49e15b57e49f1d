package history

import "go.etcd.io/bbolt"

// Abandon ends s as a crash does.
func (s *Series) Abandon() error { return s.db.Close() }

// Used is how many octets are in use.
func (s *Series) Used() (n int64) {
	_ = s.db.View(func(tx *bbolt.Tx) error { // cannot fail while it is open
		n = s.used(tx)
		return nil
	})
	return n
}
