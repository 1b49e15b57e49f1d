package ike

import (
	"errors"
	"fmt"
	"slices"

	"github.com/swanherd/swanherd/ipsec/ts"
	"github.com/swanherd/swanherd/ipsec/wire"
)

// maxLabel bounds a label, in octets. RFC 9478 leaves it to the implementation.
const maxLabel = 255

// labelled adds a label to traffic selectors (RFC 9478, Section 2.2), "" for none.
func labelled(p *wire.TS, label string) *wire.TS {
	if label != "" {
		p.Selectors = append(p.Selectors, wire.TrafficSelector{Kind: wire.TSSecurityLabel, Opaque: label})
	}
	return p
}

// labels are those of one side's traffic selectors in a message, in their order.
func labels(m *message, initiator bool) (out []string) {
	for _, s := range m.selectors(initiator) {
		if s.Kind == wire.TSSecurityLabel {
			out = append(out, s.Opaque)
		}
	}
	return out
}

// asksFor reports whether a request is for a Child SA with that label: both sides name
// it, or neither names any. That a peer's label may be left out (RFC 9478, Section 3) is
// not for us: what has one must not come to where there is none.
func asksFor(m *message, label string) bool {
	i, r := labels(m, true), labels(m, false)
	if label == "" {
		return len(i)+len(r) == 0
	}
	return slices.Contains(i, label) && slices.Contains(r, label)
}

// checkLabel reports why an answer is not for a Child SA with that label: it has it and no
// other one on both sides (RFC 9478, Section 3).
func checkLabel(m *message, label string) error {
	for _, initiator := range []bool{true, false} {
		got := labels(m, initiator)
		if label == "" && len(got) == 0 || len(got) == 1 && got[0] == label && label != "" {
			continue
		}
		return &mismatch{
			kind: KindSelectors, ours: []string{labelText(label)}, theirs: []string{fmt.Sprintf("labels %q", got)},
			text: "the label of the traffic selectors in the answer is not that of the request",
		}
	}
	return nil
}

func labelText(label string) string {
	if label == "" {
		return "no label"
	}
	return fmt.Sprintf("label %q", label)
}

// labelSuffix tells the labels of a request, nothing if it has none.
func labelSuffix(m *message) string {
	got := labels(m, true)
	if len(got) == 0 {
		return ""
	}
	return fmt.Sprintf(", labels %q", got)
}

func (c *ChildConfig) validateLabel() error {
	switch {
	case len(c.Label) > maxLabel:
		return fmt.Errorf("a label of %d octets: %d are possible", len(c.Label), maxLabel)
	case c.Label != "" && max(len(c.LocalTS), len(c.RemoteTS)) >= ts.MaxSelectors:
		return errors.New("with a label there is room for one traffic selector less")
	}
	return nil
}

// LabelFits reports whether the peer of a responder that is Identified asks, in IKE_AUTH,
// for a Child SA with the label of one of children (RFC 9478), or for none at all. Nothing
// of that is verified yet.
func (h *HalfOpen) LabelFits(children []ChildConfig) bool {
	if h.sa.init == nil || h.sa.init.auth == nil {
		return false
	}
	m := h.sa.init.auth
	return m.selectors(true) == nil || slices.ContainsFunc(children, func(c ChildConfig) bool { return asksFor(m, c.Label) })
}
