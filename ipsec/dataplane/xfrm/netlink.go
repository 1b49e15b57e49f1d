package xfrm

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/swanherd/swanherd/ipsec/dataplane"
)

// The kernel's numbers, of include/uapi/linux/xfrm.h.
const (
	modeTransport, modeTunnel = 0, 1

	directionIn, directionOut, directionForward = 0, 1, 2

	actionAllow, actionBlock = 0, 1

	saIn, saOut = 1, 2 // XFRM_SA_DIR_IN, XFRM_SA_DIR_OUT

	encapESPInUDP, encapESPInTCP = 2, 7 // UDP_ENCAP_ESPINUDP, TCP_ENCAP_ESPINTCP

	migrateState = 0x29 // XFRM_MSG_MIGRATE_STATE, since Linux 7.2

	// anyCPU is the CPU of an SA that is not one CPU's alone.
	anyCPU = math.MaxUint32

	policyPerCPU = 4 // XFRM_POLICY_CPU_ACQUIRE

	algorithmNameLen = 64
	// mappingInterval is how often the kernel tells of a peer that has moved, in
	// seconds. Before Linux 5.17 it does so with every packet.
	mappingInterval = 1
)

// stateID names a state as the kernel does.
type stateID struct {
	destination netip.Addr
	spi         uint32
	protocol    uint8
}

// state is one SA in the kernel.
type state struct {
	stateID
	source    netip.Addr
	mode      uint8
	request   uint32 // reqid: what binds policies to it
	ifID      uint32
	mark      uint32 // of the packets that it makes
	limits    nl.XfrmLifetimeCfg
	inbound   bool
	direction uint8 // saIn or saOut; 0 where the kernel does not know it
	cpu       uint32
	padTo     uint32 // octets of an inner packet, 0 for none
	device    int    // index of the interface that is to do the cipher, 0 for none
	outer     dataplane.Outer
	encap     *encap
	replay    replay
	esn       bool
	cipher    algorithm
	integrity algorithm
	aead      bool
	used      *nl.XfrmLifetimeCur // how far its limits are used up; nil for not at all
}

// encap is encapsulation in UDP or TCP between two ports.
type encap struct {
	kind                uint16
	source, destination uint16
}

type algorithm struct {
	name string // "" for none
	key  []byte
	icv  int // octets
}

// replay is the state of sequence numbers: those of both directions, and the bits
// of the window.
type replay struct {
	out, in uint64
	window  int // packets
	seen    []uint32
}

func setAddress(to *nl.XfrmAddress, a netip.Addr) {
	*to = nl.XfrmAddress{}
	copy(to[:], a.AsSlice())
}

func address(from *nl.XfrmAddress, family uint16) netip.Addr {
	if family == unix.AF_INET {
		return netip.AddrFrom4([4]byte(from[:4]))
	}
	return netip.AddrFrom16(*from)
}

func familyOf(a netip.Addr) uint16 {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// swap16 and swap32 put a number into the order of the network.
func swap16(n uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, n))
}

func swap32(n uint32) uint32 {
	return binary.NativeEndian.Uint32(binary.BigEndian.AppendUint32(nil, n))
}

// newState is the request that makes a state. It fails if there is one of that
// identity.
func (s *state) newState() request {
	info := nl.XfrmUsersaInfo{
		Family: familyOf(s.destination), Mode: s.mode, Reqid: s.request, Lft: s.limits, Flags: s.flags(),
	}
	setAddress(&info.Id.Daddr, s.destination)
	setAddress(&info.Saddr, s.source)
	info.Id.Spi, info.Id.Proto = swap32(s.spi), s.protocol
	body := append(make([]byte, 0, 1024), info.Serialize()...)
	body = s.appendAlgorithms(body)
	body = appendAttribute(body, nl.XFRMA_REPLAY_ESN_VAL, s.replay.encode())
	if s.used != nil {
		body = appendAttribute(body, nl.XFRMA_LTIME_VAL, s.used.Serialize())
	}
	if s.encap != nil {
		e := nl.XfrmEncapTmpl{EncapType: s.encap.kind, EncapSport: swap16(s.encap.source), EncapDport: swap16(s.encap.destination)}
		body = appendAttribute(body, nl.XFRMA_ENCAP, e.Serialize())
		if s.inbound {
			body = appendAttribute(body, nl.XFRMA_MTIMER_THRESH, nl.Uint32Attr(mappingInterval))
		}
	}
	if s.ifID != 0 {
		body = appendAttribute(body, nl.XFRMA_IF_ID, nl.Uint32Attr(s.ifID))
	}
	if s.mark != 0 {
		body = appendAttribute(body, nl.XFRMA_SET_MARK, nl.Uint32Attr(s.mark))
		body = appendAttribute(body, nl.XFRMA_SET_MARK_MASK, nl.Uint32Attr(math.MaxUint32))
	}
	if extra := s.extraFlags(); extra != 0 {
		body = appendAttribute(body, nl.XFRMA_SA_EXTRA_FLAGS, nl.Uint32Attr(extra))
	}
	if s.direction != 0 {
		body = appendAttribute(body, nl.XFRMA_SA_DIR, []byte{s.direction})
	}
	if s.padTo != 0 {
		body = appendAttribute(body, nl.XFRMA_TFCPAD, nl.Uint32Attr(s.padTo))
	}
	if s.device != 0 {
		body = appendAttribute(body, nl.XFRMA_OFFLOAD_DEV, s.encodeOffload())
	}
	if s.cpu != anyCPU {
		body = appendAttribute(body, nl.XFRMA_SA_PCPU, nl.Uint32Attr(s.cpu))
	}
	return request{nl.XFRM_MSG_NEWSA, unix.NLM_F_CREATE | unix.NLM_F_EXCL, body}
}

func (s *state) flags() (flags uint8) {
	if s.mode == modeTunnel {
		flags |= nl.XFRM_STATE_AF_UNSPEC // IPv4 and IPv6 within
	}
	if s.esn {
		flags |= nl.XFRM_STATE_ESN
	}
	if s.protocol == unix.IPPROTO_AH && s.destination.Is4() {
		// The kernel's own alignment of 8 octets is that of IPv6 (RFC 4302,
		// Section 3.3.3.2.1).
		flags |= nl.XFRM_STATE_ALIGN4
	}
	if s.outer.NoECN {
		flags |= nl.XFRM_STATE_NOECN
	}
	if s.outer.DF == dataplane.DFClear {
		flags |= nl.XFRM_STATE_NOPMTUDISC
	}
	return flags
}

func (s *state) extraFlags() uint32 {
	if s.outer.FixDSCP {
		return nl.XFRM_SA_XFLAG_DONT_ENCAP_DSCP
	}
	return 0
}

// appendAlgorithms appends the attributes with the keys, and leaves no copy of them
// but in body.
func (s *state) appendAlgorithms(body []byte) []byte {
	put := func(kind uint16, a algorithm, icv bool) {
		value := append(make([]byte, 0, 256), a.name...)
		value = append(value, make([]byte, algorithmNameLen-len(a.name))...)
		value = binary.NativeEndian.AppendUint32(value, uint32(8*len(a.key)))
		if icv {
			value = binary.NativeEndian.AppendUint32(value, uint32(8*a.icv))
		}
		value = append(value, a.key...)
		body = appendAttribute(body, kind, value)
		clear(value)
	}
	switch {
	case s.aead:
		put(nl.XFRMA_ALG_AEAD, s.cipher, true)
	case s.cipher.name != "":
		put(nl.XFRMA_ALG_CRYPT, s.cipher, false)
	}
	if s.integrity.name != "" {
		put(nl.XFRMA_ALG_AUTH_TRUNC, s.integrity, true)
	}
	return body
}

// encode makes struct xfrm_replay_state_esn, which serves SAs without extended
// sequence numbers as well.
func (r *replay) encode() []byte {
	words := (r.window + 31) / 32
	b := make([]byte, 0, nl.SizeofXfrmReplayStateEsn+4*words)
	for _, n := range []uint32{
		uint32(words), uint32(r.out), uint32(r.in), uint32(r.out >> 32), uint32(r.in >> 32), uint32(r.window),
	} {
		b = binary.NativeEndian.AppendUint32(b, n)
	}
	for i := range words {
		var w uint32
		if i < len(r.seen) {
			w = r.seen[i]
		}
		b = binary.NativeEndian.AppendUint32(b, w)
	}
	return b
}

func decodeReplay(b []byte) (r replay) {
	if len(b) < nl.SizeofXfrmReplayStateEsn {
		return r
	}
	n := func(i int) uint32 { return binary.NativeEndian.Uint32(b[4*i:]) }
	r.out, r.in = uint64(n(3))<<32|uint64(n(1)), uint64(n(4))<<32|uint64(n(2))
	r.window = int(n(5))
	for i := 6; 4*i+4 <= len(b) && i < 6+int(n(0)); i++ {
		r.seen = append(r.seen, n(i))
	}
	return r
}

// ask is the request of a kind that names the state and no more.
func (s stateID) ask(kind nl.XfrmMsgType) request {
	id := nl.XfrmUsersaId{Spi: swap32(s.spi), Family: familyOf(s.destination), Proto: s.protocol}
	setAddress(&id.Daddr, s.destination)
	return request{kind: kind, body: bytes.Clone(id.Serialize())}
}

// askOf sends a request of a kind that names the state and no more for each of some. While
// its tables grow Linux before 6.13 misses states that are there (__xfrm_state_lookup, as it
// holds no lock): those are asked for once more when the tables have grown, before which it
// does not tell their size.
func (c *conn) askOf(kind nl.XfrmMsgType, ids ...stateID) []answer {
	ask := func(ids []stateID) []answer {
		requests := make([]request, len(ids))
		for i, id := range ids {
			requests[i] = id.ask(kind)
		}
		return c.send(requests...)
	}
	answers := ask(ids)
	var missed []int
	var again []stateID
	for i, a := range answers {
		if errors.Is(a.err, unix.ESRCH) {
			missed, again = append(missed, i), append(again, ids[i])
		}
	}
	if len(missed) == 0 {
		return answers
	}
	if _, err := c.places(); err != nil {
		return answers
	}
	for i, a := range ask(again) {
		answers[missed[i]] = a
	}
	return answers
}

// deleteStates removes states; one that is not there is no error.
func (c *conn) deleteStates(ids ...stateID) (err error) {
	for _, a := range c.askOf(nl.XFRM_MSG_DELSA, ids...) {
		if !errors.Is(a.err, unix.ESRCH) {
			err = errors.Join(err, a.err)
		}
	}
	return err
}

// facts are what the kernel says about a state.
type facts struct {
	stateID
	source                 netip.Addr
	mode, flags, direction uint8
	extraFlags             uint32
	request, ifID, mark    uint32
	limits                 nl.XfrmLifetimeCfg
	used                   nl.XfrmLifetimeCur
	lastUsed               uint64 // seconds since 1970, 0 for never
	cpu, padTo             uint32
	replayed, unauthentic  uint64
	replay                 replay
	encap                  *encap
	cipherName, authorName string
}

func (c *conn) getState(id stateID) (*facts, error) {
	a := c.askOf(nl.XFRM_MSG_GETSA, id)[0]
	if a.err != nil {
		return nil, a.err
	}
	defer clear(a.body) // it has the keys
	return decodeState(a.body)
}

func (c *conn) states() ([]*facts, error) {
	var all []*facts
	var failed error
	err := c.dump(nl.XFRM_MSG_GETSA, nil, func(body []byte) {
		f, err := decodeState(body)
		if err != nil {
			failed = err
			return
		}
		all = append(all, f)
	})
	return all, errors.Join(err, failed)
}

var errShort = errors.New("a message of the kernel is too short")

func decodeState(b []byte) (*facts, error) {
	if len(b) < nl.SizeofXfrmUsersaInfo {
		return nil, errShort
	}
	return decodeFacts(nl.DeserializeXfrmUsersaInfo(b), parseAttributes(b[nl.SizeofXfrmUsersaInfo:])), nil
}

func decodeFacts(info *nl.XfrmUsersaInfo, attrs attributes) *facts {
	f := &facts{
		stateID: stateID{address(&info.Id.Daddr, info.Family), swap32(info.Id.Spi), info.Id.Proto},
		source:  address(&info.Saddr, info.Family), mode: info.Mode, flags: info.Flags, request: info.Reqid, used: info.Curlft,
		replayed: uint64(info.Stats.Replay) + uint64(info.Stats.ReplayWindow), unauthentic: uint64(info.Stats.IntegrityFailed),
		cpu: attrs.cpu(), padTo: attrs.word(nl.XFRMA_TFCPAD),
		limits: info.Lft, ifID: attrs.word(nl.XFRMA_IF_ID), mark: attrs.word(nl.XFRMA_SET_MARK), extraFlags: attrs.word(nl.XFRMA_SA_EXTRA_FLAGS), replay: decodeReplay(attrs[nl.XFRMA_REPLAY_ESN_VAL]),
	}
	if v := attrs[nl.XFRMA_SA_DIR]; len(v) >= 1 {
		f.direction = v[0]
	}
	if v := attrs[nl.XFRMA_LASTUSED]; len(v) >= 8 {
		f.lastUsed = binary.NativeEndian.Uint64(v)
	}
	if v := attrs[nl.XFRMA_ENCAP]; len(v) >= nl.SizeofXfrmEncapTmpl {
		e := nl.DeserializeXfrmEncapTmpl(v)
		f.encap = &encap{e.EncapType, swap16(e.EncapSport), swap16(e.EncapDport)}
	}
	for _, kind := range []uint16{nl.XFRMA_ALG_AEAD, nl.XFRMA_ALG_CRYPT} {
		if v := attrs[kind]; len(v) >= algorithmNameLen {
			f.cipherName = unix.ByteSliceToString(v[:algorithmNameLen])
		}
	}
	if v := attrs[nl.XFRMA_ALG_AUTH_TRUNC]; len(v) >= algorithmNameLen {
		f.authorName = unix.ByteSliceToString(v[:algorithmNameLen])
	}
	return f
}

// cpu is the CPU of an SA.
func (a attributes) cpu() uint32 {
	if _, there := a[nl.XFRMA_SA_PCPU]; !there {
		return anyCPU
	}
	return a.word(nl.XFRMA_SA_PCPU)
}

// policy is one entry of the kernel's SPD.
type policy struct {
	selector  selector
	direction uint8
	priority  uint32
	action    uint8
	ifID      uint32
	template  template // of protocol 0: none
	perCPU    bool     // each CPU has a state of its own
}

// template says which states serve a policy.
type template struct {
	source, destination netip.Addr // of the outer header; the zero value takes any
	family              uint16
	protocol            uint8
	mode                uint8
	request             uint32
}

// set is the request that makes a policy or replaces the one of that selector.
func (p *policy) set() request {
	body := p.encode()
	if p.template.protocol != 0 {
		body = appendAttribute(body, nl.XFRMA_TMPL, p.template.encode())
	}
	return request{kind: nl.XFRM_MSG_UPDPOLICY, body: p.appendInterface(body)}
}

// encode makes struct xfrm_userpolicy_info.
func (p *policy) encode() []byte {
	info := nl.XfrmUserpolicyInfo{
		Sel: p.selector.encode(), Priority: p.priority, Dir: p.direction, Action: p.action,
		Lft: nl.XfrmLifetimeCfg{SoftByteLimit: nl.XFRM_INF, HardByteLimit: nl.XFRM_INF, SoftPacketLimit: nl.XFRM_INF, HardPacketLimit: nl.XFRM_INF},
	}
	if p.perCPU {
		info.Flags |= policyPerCPU
	}
	return bytes.Clone(info.Serialize())
}

func (t *template) encode() []byte {
	u := nl.XfrmUserTmpl{Family: t.family, Reqid: t.request, Mode: t.mode, Aalgos: ^uint32(0), Ealgos: ^uint32(0), Calgos: ^uint32(0)}
	u.XfrmId.Proto = t.protocol
	if t.destination.IsValid() {
		setAddress(&u.XfrmId.Daddr, t.destination)
		setAddress(&u.Saddr, t.source)
	}
	return bytes.Clone(u.Serialize())
}

// ask is the request of a kind that names the policy and no more.
func (p *policy) ask(kind nl.XfrmMsgType) request {
	id := nl.XfrmUserpolicyId{Sel: p.selector.encode(), Dir: p.direction}
	return request{kind: kind, body: p.appendInterface(bytes.Clone(id.Serialize()))}
}

func (p *policy) appendInterface(body []byte) []byte {
	if p.ifID == 0 {
		return body
	}
	return appendAttribute(body, nl.XFRMA_IF_ID, nl.Uint32Attr(p.ifID))
}

// policies returns those in the kernel.
func (c *conn) policies() ([]*policy, error) {
	var all []*policy
	var failed error
	err := c.dump(nl.XFRM_MSG_GETPOLICY, nil, func(body []byte) {
		p, err := decodePolicy(body)
		if err != nil {
			failed = err
			return
		}
		all = append(all, p)
	})
	return all, errors.Join(err, failed)
}

func decodePolicy(b []byte) (*policy, error) {
	if len(b) < nl.SizeofXfrmUserpolicyInfo {
		return nil, errShort
	}
	info := nl.DeserializeXfrmUserpolicyInfo(b)
	attrs := parseAttributes(b[nl.SizeofXfrmUserpolicyInfo:])
	p := &policy{
		selector: decodeSelector(&info.Sel), direction: info.Dir, priority: info.Priority, action: info.Action,
		ifID: attrs.word(nl.XFRMA_IF_ID), perCPU: info.Flags&policyPerCPU != 0,
	}
	if v := attrs[nl.XFRMA_TMPL]; len(v) >= nl.SizeofXfrmUserTmpl {
		t := nl.DeserializeXfrmUserTmpl(v)
		p.template = template{family: t.Family, protocol: t.XfrmId.Proto, mode: t.Mode, request: t.Reqid}
		if d := address(&t.XfrmId.Daddr, t.Family); !d.IsUnspecified() {
			p.template.source, p.template.destination = address(&t.Saddr, t.Family), d
		}
	}
	return p, nil
}
