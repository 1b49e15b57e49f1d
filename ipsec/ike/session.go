package ike

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"slices"
	"time"

	"github.com/swanherd/swanherd/ipsec/ident"
	"github.com/swanherd/swanherd/ipsec/suite"
	"github.com/swanherd/swanherd/ipsec/wire"
)

// session is what both ends need of an IKE SA to resume it (RFC 5723, Section 5):
// the responder from the ticket, the initiator from what it has kept.
type session struct {
	suite suite.IKESuite
	skD   []byte
	// idi and idr are bound: nobody else can resume, and nobody else be meant.
	idi, idr   ident.ID
	spii, spir wire.SPI // of the IKE SA, which a resumption replaces
	// tunnel is that of the end which sealed the session.
	tunnel TunnelTag
	// method is how the other end proved itself, chain its certificates (DER),
	// which are verified again; psk is the hash of the pre-shared key if it was by
	// one, so that another key ends the session.
	method string
	chain  [][]byte
	psk    []byte
	// ppk names the post-quantum preshared key that the keys depend on.
	ppk string
	// proved is when that was: resumption does not put it off for ever.
	proved  time.Time
	expires time.Time
}

// TunnelTag stands for the name of a tunnel.
type TunnelTag [8]byte

// TagOf returns the tag of a tunnel's name.
func TagOf(name string) TunnelTag {
	sum := sha256.Sum256([]byte(name))
	return TunnelTag(sum[:8])
}

// errSession is the only thing that is said about a malformed session: it is ours,
// and was intact when it was sealed.
var errSession = errors.New("session is malformed")

func (s *session) destroy() {
	if s != nil {
		clear(s.skD)
		s.skD = nil
	}
}

// sessionVersion is that of the encoding.
const sessionVersion = 1

// append encodes s: each field with its length in two octets, numbers in network
// byte order.
func (s *session) append(b []byte) []byte {
	b = append(b, sessionVersion)
	numbers := []uint16{uint16(s.suite.Encryption), s.suite.KeyBits, uint16(s.suite.PRF), uint16(s.suite.Integrity), uint16(s.suite.KeyExchange)}
	for _, m := range s.suite.Additional {
		numbers = append(numbers, uint16(m))
	}
	for _, n := range numbers {
		b = binary.BigEndian.AppendUint16(b, n)
	}
	b = append(append(append(b, s.spii[:]...), s.spir[:]...), s.tunnel[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(s.proved.Unix()))
	b = binary.BigEndian.AppendUint64(b, uint64(s.expires.Unix()))
	fields := [][]byte{s.skD, s.idi.Payload(true).Body(), s.idr.Payload(false).Body(), []byte(s.method), s.psk, []byte(s.ppk)}
	for _, f := range append(fields, s.chain...) {
		b = binary.BigEndian.AppendUint16(b, uint16(len(f)))
		b = append(b, f...)
	}
	return b
}

// maxChain bounds the certificates of a session.
const maxChain = 8

// parseSession reads what append wrote. It keeps no part of b.
func parseSession(b []byte) (*session, error) {
	r := sessionReader{b: b}
	if r.number(1) != sessionVersion {
		return nil, errSession
	}
	s := &session{}
	s.suite.Encryption, s.suite.KeyBits = wire.EncryptionID(r.number(2)), uint16(r.number(2))
	s.suite.PRF, s.suite.Integrity = suite.PRF(r.number(2)), wire.IntegrityID(r.number(2))
	s.suite.KeyExchange = wire.KeyExchangeID(r.number(2))
	for i := range s.suite.Additional {
		s.suite.Additional[i] = wire.KeyExchangeID(r.number(2))
	}
	copy(s.spii[:], r.take(8))
	copy(s.spir[:], r.take(8))
	copy(s.tunnel[:], r.take(8))
	s.proved, s.expires = time.Unix(int64(r.number(8)), 0), time.Unix(int64(r.number(8)), 0)
	s.skD = r.field()
	s.idi, s.idr = r.id(true), r.id(false)
	s.method, s.psk, s.ppk = string(r.field()), r.field(), string(r.field())
	for len(r.b) > 0 && !r.failed && len(s.chain) < maxChain {
		s.chain = append(s.chain, r.field())
	}
	if r.failed || len(r.b) > 0 {
		s.destroy()
		return nil, errSession
	}
	return s, nil
}

// sessionReader reads fields; after the first that is not there it gives zeros.
type sessionReader struct {
	b      []byte
	failed bool
}

func (r *sessionReader) take(n int) []byte {
	if len(r.b) < n {
		r.failed, r.b = true, nil
		return make([]byte, n)
	}
	var out []byte
	out, r.b = r.b[:n:n], r.b[n:]
	return out
}

func (r *sessionReader) number(octets int) uint64 {
	var n uint64
	for _, o := range r.take(octets) {
		n = n<<8 | uint64(o)
	}
	return n
}

func (r *sessionReader) field() []byte {
	n := int(r.number(2))
	if n > len(r.b) {
		r.failed, n = true, 0
	}
	return bytes.Clone(r.take(n))
}

func (r *sessionReader) id(initiator bool) ident.ID {
	body := r.field()
	if len(body) < 4 {
		r.failed = true
		return ident.ID{}
	}
	// The body of an ID payload (RFC 7296, Section 3.5).
	id, err := ident.FromPayload(&wire.ID{Initiator: initiator, Kind: wire.IDType(body[0]), Data: body[4:]})
	if err != nil {
		r.failed = true
	}
	return id
}

// newSession describes sa for a resumption until expires.
func (sa *ikeSA) newSession(expires time.Time) *session {
	s := &session{
		suite: sa.suite, skD: bytes.Clone(sa.keys.D), idi: sa.localID, idr: sa.remoteID, spii: sa.localSPI, spir: sa.remoteSPI,
		method: sa.remoteAuth, proved: sa.proved, expires: expires, psk: pskHash(sa.t.cfg.Peer),
		tunnel: TagOf(sa.t.cfg.Name), ppk: sa.ppk,
	}
	if !sa.initiator {
		s.idi, s.idr, s.spii, s.spir = s.idr, s.idi, s.spir, s.spii
	}
	if sa.evidence != nil && len(sa.evidence.chain) > 0 {
		s.chain, s.psk = sa.evidence.chain, nil
	}
	return s
}

// pskHash stands for the pre-shared key of a peer without giving it away.
func pskHash(remote ident.Remote) []byte {
	if len(remote.PSK) == 0 {
		return nil
	}
	h := sha256.New()
	h.Write([]byte("swanherd session of a pre-shared key"))
	h.Write(remote.PSK)
	return h.Sum(nil)
}

// allows reports whether the configuration would have the session's suite and
// post-quantum preshared key today.
func (c *Config) allows(s *session) bool {
	if s.ppk == "" && c.PPKRequired || s.ppk != "" && !slices.ContainsFunc(c.PPKs, func(p ident.PPK) bool { return string(p.ID) == s.ppk }) {
		return false
	}
	return slices.ContainsFunc(c.Proposals, func(p suite.IKEProposal) bool { return p.Allows(s.suite) })
}

// stillBelieved checks, in a job, that what the peer proved when the session began
// would be believed today (RFC 5723, Sections 6.2 and 9.8).
func (s *session) stillBelieved(remote ident.Remote, peer ident.ID, now time.Time) (*ident.VerifiedPeer, error) {
	if len(s.chain) == 0 {
		if !remote.ID.IsZero() && !remote.ID.Equal(peer) || s.psk == nil || !bytes.Equal(s.psk, pskHash(remote)) {
			return nil, errors.New("the pre-shared key or the peer's identity is another one than when the session began")
		}
		return &ident.VerifiedPeer{ID: peer, Method: s.method}, nil
	}
	certs, err := ident.ParseChain(s.chain)
	if err != nil {
		return nil, err
	}
	p, err := ident.Revalidate(remote, peer, certs, now)
	if err == nil {
		p.Method = s.method
	}
	return p, err
}
