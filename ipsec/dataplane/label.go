package dataplane

import (
	"errors"
	"fmt"
)

// MaxLabels is how many labels a plane may have.
const MaxLabels = 16

// Label is a place of its own for traffic of one label ([SA]): an interface that nothing
// but SAs of that label lead to and from.
type Label struct {
	// Name of the label, not empty.
	Name string
	// Interface is its name, at most 15 octets.
	Interface string
	// Enter runs a function in the network namespace that the interface is to be in. Nil:
	// in that of the plane.
	Enter func(func() error) error
}

// Within runs f in the network namespace of the label's interface.
func (l Label) Within(f func() error) error {
	if l.Enter == nil {
		return f()
	}
	return l.Enter(f)
}

// CheckLabels says what is wrong with the labels of a plane.
func CheckLabels(labels []Label) error {
	if len(labels) > MaxLabels {
		return fmt.Errorf("%d labels: there may be %d", len(labels), MaxLabels)
	}
	seen := map[string]bool{}
	for _, l := range labels {
		if l.Name == "" || seen[l.Name] {
			return fmt.Errorf("label %q is empty or given twice", l.Name)
		}
		seen[l.Name] = true
	}
	return nil
}

// NoLabel is the error of a plane that has no place for traffic of that label.
func NoLabel(label string) error {
	return fmt.Errorf("this data plane has no interface for traffic of the label %q", label)
}

// ErrTransportLabel is that of an SA or policy in transport mode with a label, which has no
// interface to be told apart by.
var ErrTransportLabel = errors.New("transport mode has no interface, so that it has no label: use tunnel mode")
