package model

import "strings"

// A Violation is one thing that is wrong with a state, in words for whoever
// asked for it.
type Violation struct {
	// Resource is the name of the resource that is wrong.
	Resource string
	// Field is the path in what was asked for, such as `sites[2].prefixes[0]` of
	// a manifest; of a resource that was stored before it is the path in the
	// resource itself.
	Field string
	// Problem says what is wrong; Remedy what would be right.
	Problem, Remedy string
}

func (v Violation) String() string {
	var b strings.Builder
	for _, part := range []string{v.Resource, v.Field} {
		if part != "" {
			b.WriteString(part + ": ")
		}
	}
	b.WriteString(v.Problem)
	if v.Remedy != "" {
		b.WriteString("; " + v.Remedy)
	}
	return b.String()
}

// Violations are all that is wrong, in the order of fields of the manifest. It
// is an error when there are any.
type Violations []Violation

func (v Violations) Error() string {
	lines := make([]string, len(v))
	for i, one := range v {
		lines[i] = one.String()
	}
	return strings.Join(lines, "\n")
}

// Err returns v as an error, nil when there are no violations.
func (v Violations) Err() error {
	if len(v) == 0 {
		return nil
	}
	return v
}
