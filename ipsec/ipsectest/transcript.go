package ipsectest

import (
	"fmt"
	"strings"

	"github.com/swanherd/swanherd/ipsec/notation"
	"github.com/swanherd/swanherd/ipsec/wire"
)

// Transcript collects what happened in a scenario, one line each. The zero
// value is empty and ready for use.
type Transcript struct {
	lines []string
	taken int // lines that Take has returned
}

// Message records a message on its way, as "a->b IKE_AUTH req 1 {IDi AUTH}".
func (t *Transcript) Message(from, to string, h wire.Header, payloads []wire.Payload) {
	t.lines = append(t.lines, fmt.Sprintf("%s->%s %s", from, to, notation.Message(h, payloads)))
}

// Note records anything else that one side did, as "a: child up".
func (t *Transcript) Note(who, format string, args ...any) {
	t.lines = append(t.lines, who+": "+fmt.Sprintf(format, args...))
}

// Take returns the lines since the last Take, each ended by a newline: the
// answer to one command of a data-driven test.
func (t *Transcript) Take() string {
	lines := t.lines[t.taken:]
	t.taken = len(t.lines)
	return join(lines)
}

// String returns all lines, taken or not: what a failing test prints.
func (t *Transcript) String() string { return join(t.lines) }

func join(lines []string) string {
	if len(lines) == 0 {
		return ""
	}
	return strings.Join(lines, "\n") + "\n"
}
