package ike

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/swanherd/swanherd/ipsec/ident"
	"github.com/swanherd/swanherd/ipsec/notation"
	"github.com/swanherd/swanherd/ipsec/suite"
	"github.com/swanherd/swanherd/ipsec/wire"
)

// render prints a message like "CREATE_CHILD_SA req 2 {N(REKEY_SA) SA Ni KEi TSi
// TSr}". It looks into both ends for the keys.
func (w *world) render(data []byte) string {
	m, err := wire.Parse(data)
	if err != nil {
		return "garbage"
	}
	head := notation.Head(m.Header)
	payloads, note := m.Payloads, ""
	if len(payloads) > 0 {
		switch p := payloads[len(payloads)-1].(type) {
		case *wire.Encrypted:
			payloads, note = w.peek(m, p.FirstInner)
		case *wire.EncryptedFragment:
			return fmt.Sprintf("%s fragment %d/%d", head, p.Number, p.Total)
		}
	}
	var words []string
	for _, p := range payloads {
		if n, ok := p.(*wire.Notify); ok && announces[n.Kind] && !w.announcements {
			continue
		}
		words = append(words, renderPayload(p, m))
	}
	return fmt.Sprintf("%s {%s}%s", head, strings.Join(words, " "), note)
}

// announces are the notifications by which an end says in the initial exchanges
// what it can do and where it is. They are shown only in the stories about them,
// so that one more capability does not rewrite the others.
var announces = map[wire.NotifyType]bool{
	wire.NotifyNATDetectionSourceIP:            true,
	wire.NotifyNATDetectionDestinationIP:       true,
	wire.NotifySignatureHashAlgorithms:         true,
	wire.NotifyFragmentationSupported:          true,
	wire.NotifyMOBIKESupported:                 true,
	wire.NotifyAdditionalIP4Address:            true,
	wire.NotifyAdditionalIP6Address:            true,
	wire.NotifyNoAdditionalAddresses:           true,
	wire.NotifyRedirectSupported:               true,
	wire.NotifyChildlessIKEv2Supported:         true,
	wire.NotifyIKEv2MessageIDSyncSupported:     true,
	wire.NotifyIntermediateExchangeSupported:   true,
	wire.NotifySupportedAuthMethods:            true,
	wire.NotifyIPsecReplayCounterSyncSupported: true,
}

// quiet takes out of a line of a transcript what one more capability would change:
// the announcements, and the lengths that they make.
func (w *world) quiet(line string) string {
	if w.announcements {
		return line
	}
	for kind := range announces {
		line = strings.ReplaceAll(line, " N("+kind.String()+")", "")
	}
	return lengths.ReplaceAllString(line, "")
}

var lengths = regexp.MustCompile(` \d+ octets`)

// peek decrypts a message with the keys of either end.
func (w *world) peek(m *wire.Message, first wire.PayloadType) ([]wire.Payload, string) {
	header, body, _ := m.Protected()
	for _, sa := range w.allSAs() {
		if sa.keys == nil {
			continue
		}
		spii, spir := sa.localSPI, sa.remoteSPI
		if !sa.initiator {
			spii, spir = spir, spii
		}
		if spii != m.InitiatorSPI || spir != m.ResponderSPI {
			continue
		}
		ek, ak := sa.keys.Ei, sa.keys.Ai
		if !m.FromInitiator() {
			ek, ak = sa.keys.Er, sa.keys.Ar
		}
		p, err := suite.NewProtector(sa.suite, ek, ak)
		if err != nil {
			continue
		}
		plain, err := p.Open(nil, header, body)
		if err != nil {
			continue
		}
		payloads, err := wire.ParsePayloads(first, plain)
		if err != nil {
			return nil, " malformed"
		}
		return payloads, ""
	}
	return nil, " unreadable"
}

func (w *world) allSAs() []*ikeSA {
	var out []*ikeSA
	for _, n := range []*node{w.a, w.b, w.intruder, w.gateway} {
		if n == nil {
			continue
		}
		out = append(out, n.t.sas...)
		for _, h := range n.halves {
			out = append(out, h.sa)
		}
	}
	return out
}

// renderPayload prints what tells IKE SAs apart on top of the notation.
func renderPayload(p wire.Payload, m *wire.Message) string {
	switch p := p.(type) {
	case *wire.Notify:
		return "N(" + p.Kind.String() + renderMethods(p) + ")"
	case *wire.Delete:
		if p.Protocol == wire.ProtocolIKE {
			return "D(" + nameIKE(m) + ")"
		}
	}
	return notation.Payload(m.Header, p)
}

// renderMethods prints the list of SUPPORTED_AUTH_METHODS.
func renderMethods(p *wire.Notify) string {
	var a ident.Announced
	a.Read([]wire.Payload{p})
	s := ""
	for i, m := range a.Methods {
		s += []string{": ", ", "}[min(i, 1)] + m.String()
	}
	return s
}

// nameIKE names the IKE SA of a message by its SPIs, that of a first.
func nameIKE(m *wire.Message) string {
	names := []string{shortSPI(m.InitiatorSPI), shortSPI(m.ResponderSPI)}
	slices.Sort(names)
	return names[0] + "/" + names[1]
}
