package ike

import (
	"bytes"
	"slices"
	"strings"

	"github.com/swanherd/swanherd/ipsec/ident"
	"github.com/swanherd/swanherd/ipsec/wire"
)

// storyPPKs reads the key ppk of a story: identifiers, each with the letter that
// its key consists of, such as (new:n,old:o); without a letter it is the first
// one of the identifier.
func storyPPKs(list []string) []ident.PPK {
	var out []ident.PPK
	for _, s := range list {
		id, letter, ok := strings.Cut(s, ":")
		if !ok {
			letter = id[:1]
		}
		out = append(out, ident.PPK{ID: []byte(id), Key: ident.PSK(strings.Repeat(letter, 32))})
	}
	return out
}

// ppk prints which keys the IKE SAs of the two ends depend on.
func (w *world) ppk() {
	for _, n := range w.nodes() {
		for _, sa := range n.t.Status().IKE {
			if sa.State == stateEstablished.String() {
				w.note("%s: %q\n", n.name, sa.PPK)
			}
		}
	}
}

// notifyNamed finds a notification by its registered name.
func notifyNamed(name string) wire.NotifyType {
	for t := wire.NotifyInitialContact; t <= wire.NotifyPPKIdentityKey; t++ {
		if t.String() == name {
			return t
		}
	}
	return 0
}

// unlearn makes an IKE_SA_INIT request what an end would send that does not know
// one of the extensions, and has the end believe that it sent that.
func (n *node) unlearn(data []byte) []byte {
	m, err := wire.Parse(data)
	if n.without == 0 || err != nil || m.Exchange != wire.ExchangeIKESAInit || m.IsResponse() {
		return data
	}
	m.Payloads = slices.DeleteFunc(m.Payloads, func(p wire.Payload) bool {
		notify, ok := p.(*wire.Notify)
		return ok && notify.Kind == n.without
	})
	raw, err := m.Append(nil)
	if err != nil {
		panic(err)
	}
	for _, sa := range n.t.sas {
		if sa.init != nil && bytes.Equal(sa.init.request, data) {
			sa.init.request = raw
		}
	}
	return raw
}
