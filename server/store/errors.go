package store

import (
	"errors"
	"fmt"
)

var (
	// ErrNotFound: there is no resource of that name.
	ErrNotFound = errors.New("resource does not exist")
	// ErrExists: there is a resource of that name already.
	ErrExists = errors.New("resource exists already")
	// ErrConflict: somebody else wrote the resource in between. Read it again
	// and retry.
	ErrConflict = errors.New("resource was changed in between")
	// ErrTooLarge: a transaction has more operations or octets than etcd takes
	// at once. Nothing was stored.
	ErrTooLarge = errors.New("transaction is too large")
	// ErrUnavailable: etcd did not answer in time. A write may have been stored or not:
	// read again before repeating it.
	ErrUnavailable = errors.New("the store does not answer")
	// ErrSuperseded: another replica has brought the store to a newer schema than this
	// program knows, which does not write any more.
	ErrSuperseded = errors.New("the store has a newer schema than this program")
)

// A ConditionError is a condition of a write that did not hold; nothing was
// stored. It is ErrNotFound, ErrExists or ErrConflict for errors.Is.
type ConditionError struct {
	// Name of the resource.
	Name string
	// Want and Have are modification revisions; 0: absent, AnyRevision: present.
	Want, Have int64
}

func (e *ConditionError) Error() string {
	if e.Is(ErrConflict) {
		return fmt.Sprintf("%s was changed in between: it is at revision %d, not %d; read it again and retry", e.Name, e.Have, e.Want)
	}
	if e.Is(ErrExists) {
		return e.Name + " exists already"
	}
	return e.Name + " does not exist"
}

// Is tells which of the package's errors e is.
func (e *ConditionError) Is(target error) bool {
	switch {
	case e.Want == 0:
		return target == ErrExists
	case e.Have == 0:
		return target == ErrNotFound
	default:
		return target == ErrConflict
	}
}
