package xfrm

import (
	"encoding/binary"
	"errors"
	"fmt"
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

	encapESPInUDP = 2 // UDP_ENCAP_ESPINUDP
)

// conn is a netlink socket in the namespace in which it was opened.
type conn struct{ handle *nl.SocketHandle }

func openConn() (*conn, error) {
	s, err := nl.Subscribe(unix.NETLINK_XFRM)
	if err != nil {
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	s.SetExtAck(true) // what the kernel adds to an error; an old one has nothing
	return &conn{&nl.SocketHandle{Socket: s}}, nil
}

func (c *conn) close() { c.handle.Close() }

// do sends a request and returns the messages of its answer.
func (c *conn) do(command, flags int, parts ...nl.NetlinkRequestData) ([][]byte, error) {
	req := nl.NewNetlinkRequest(command, flags)
	req.Sockets = map[int]*nl.SocketHandle{unix.NETLINK_XFRM: c.handle}
	for _, p := range parts {
		req.AddData(p)
	}
	return req.Execute(unix.NETLINK_XFRM, 0)
}

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
	limits    dataplane.Limits
	encap     *encap
	replay    replay
	esn       bool
	cipher    algorithm
	integrity algorithm
	aead      bool
}

// encap are the ports of UDP encapsulation.
type encap struct{ source, destination uint16 }

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

func orInfinite(n uint64) uint64 {
	if n == 0 {
		return nl.XFRM_INF
	}
	return n
}

// addState makes a state. It fails if there is one of that identity.
func (c *conn) addState(s *state) error {
	info := &nl.XfrmUsersaInfo{
		Family: familyOf(s.destination), Mode: s.mode, Reqid: s.request,
		Lft: nl.XfrmLifetimeCfg{
			SoftByteLimit: orInfinite(s.limits.SoftBytes), HardByteLimit: orInfinite(s.limits.HardBytes),
			SoftPacketLimit: orInfinite(s.limits.SoftPackets), HardPacketLimit: orInfinite(s.limits.HardPackets),
			SoftAddExpiresSeconds: uint64(s.limits.SoftTime.Seconds()), HardAddExpiresSeconds: uint64(s.limits.HardTime.Seconds()),
		},
	}
	setAddress(&info.Id.Daddr, s.destination)
	setAddress(&info.Saddr, s.source)
	info.Id.Spi, info.Id.Proto = swap32(s.spi), s.protocol
	if s.mode == modeTunnel {
		info.Flags |= nl.XFRM_STATE_AF_UNSPEC // IPv4 and IPv6 within
	}
	if s.esn {
		info.Flags |= nl.XFRM_STATE_ESN
	}
	if s.protocol == unix.IPPROTO_AH && s.destination.Is4() {
		// The kernel's own alignment of 8 octets is that of IPv6 (RFC 4302,
		// Section 3.3.3.2.1).
		info.Flags |= nl.XFRM_STATE_ALIGN4
	}
	parts := append([]nl.NetlinkRequestData{info}, s.algorithms()...)
	parts = append(parts, nl.NewRtAttr(nl.XFRMA_REPLAY_ESN_VAL, s.replay.encode()))
	if s.encap != nil {
		e := nl.XfrmEncapTmpl{EncapType: encapESPInUDP, EncapSport: swap16(s.encap.source), EncapDport: swap16(s.encap.destination)}
		parts = append(parts, nl.NewRtAttr(nl.XFRMA_ENCAP, e.Serialize()))
	}
	if s.ifID != 0 {
		parts = append(parts, nl.NewRtAttr(nl.XFRMA_IF_ID, nl.Uint32Attr(s.ifID)))
	}
	_, err := c.do(nl.XFRM_MSG_NEWSA, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK, parts...)
	return err
}

func (s *state) algorithms() []nl.NetlinkRequestData {
	var parts []nl.NetlinkRequestData
	switch {
	case s.aead:
		a := nl.XfrmAlgoAEAD{AlgKeyLen: uint32(len(s.cipher.key) * 8), AlgICVLen: uint32(s.cipher.icv * 8), AlgKey: s.cipher.key}
		copy(a.AlgName[:], s.cipher.name)
		parts = append(parts, nl.NewRtAttr(nl.XFRMA_ALG_AEAD, a.Serialize()))
	case s.cipher.name != "":
		a := nl.XfrmAlgo{AlgKeyLen: uint32(len(s.cipher.key) * 8), AlgKey: s.cipher.key}
		copy(a.AlgName[:], s.cipher.name)
		parts = append(parts, nl.NewRtAttr(nl.XFRMA_ALG_CRYPT, a.Serialize()))
	}
	if s.integrity.name != "" {
		a := nl.XfrmAlgoAuth{AlgKeyLen: uint32(len(s.integrity.key) * 8), AlgTruncLen: uint32(s.integrity.icv * 8), AlgKey: s.integrity.key}
		copy(a.AlgName[:], s.integrity.name)
		parts = append(parts, nl.NewRtAttr(nl.XFRMA_ALG_AUTH_TRUNC, a.Serialize()))
	}
	return parts
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

func (s stateID) request() *nl.XfrmUsersaId {
	id := &nl.XfrmUsersaId{Spi: swap32(s.spi), Family: familyOf(s.destination), Proto: s.protocol}
	setAddress(&id.Daddr, s.destination)
	return id
}

// deleteState removes a state; one that is not there is no error.
func (c *conn) deleteState(id stateID) error {
	_, err := c.do(nl.XFRM_MSG_DELSA, unix.NLM_F_ACK, id.request())
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	return err
}

// facts are what the kernel says about a state.
type facts struct {
	stateID
	source                 netip.Addr
	mode                   uint8
	request, ifID          uint32
	bytes, packets         uint64
	firstUsed, lastUsed    uint64 // seconds since 1970, 0 for never
	replayed, unauthentic  uint64
	replay                 replay
	encap                  *encap
	cipherName, authorName string
}

func (c *conn) getState(id stateID) (*facts, error) {
	out, err := c.do(nl.XFRM_MSG_GETSA, 0, id.request())
	if err != nil {
		return nil, err
	}
	if len(out) != 1 {
		return nil, fmt.Errorf("the kernel answers with %d states", len(out))
	}
	return decodeState(out[0])
}

func (c *conn) states() ([]*facts, error) {
	out, err := c.do(nl.XFRM_MSG_GETSA, unix.NLM_F_DUMP)
	if err != nil {
		return nil, err
	}
	var all []*facts
	for _, b := range out {
		f, err := decodeState(b)
		if err != nil {
			return nil, err
		}
		all = append(all, f)
	}
	return all, nil
}

var errShort = errors.New("a message of the kernel is too short")

func decodeState(b []byte) (*facts, error) {
	if len(b) < nl.SizeofXfrmUsersaInfo {
		return nil, errShort
	}
	info := nl.DeserializeXfrmUsersaInfo(b)
	f := &facts{
		stateID: stateID{address(&info.Id.Daddr, info.Family), swap32(info.Id.Spi), info.Id.Proto},
		source:  address(&info.Saddr, info.Family), mode: info.Mode, request: info.Reqid,
		bytes: info.Curlft.Bytes, packets: info.Curlft.Packets, firstUsed: info.Curlft.UseTime,
		replayed: uint64(info.Stats.Replay), unauthentic: uint64(info.Stats.IntegrityFailed),
	}
	attrs, err := nl.ParseRouteAttr(b[nl.SizeofXfrmUsersaInfo:])
	if err != nil {
		return nil, err
	}
	for _, a := range attrs {
		switch v := a.Value; a.Attr.Type {
		case nl.XFRMA_IF_ID:
			f.ifID = binary.NativeEndian.Uint32(v)
		case nl.XFRMA_LASTUSED:
			f.lastUsed = binary.NativeEndian.Uint64(v)
		case nl.XFRMA_REPLAY_ESN_VAL:
			f.replay = decodeReplay(v)
		case nl.XFRMA_ENCAP:
			e := nl.DeserializeXfrmEncapTmpl(v)
			f.encap = &encap{swap16(e.EncapSport), swap16(e.EncapDport)}
		case nl.XFRMA_ALG_AEAD, nl.XFRMA_ALG_CRYPT:
			f.cipherName = unix.ByteSliceToString(v[:64])
		case nl.XFRMA_ALG_AUTH_TRUNC:
			f.authorName = unix.ByteSliceToString(v[:64])
		}
	}
	return f, nil
}

// policy is one entry of the kernel's SPD.
type policy struct {
	selector  selector
	direction uint8
	priority  uint32
	action    uint8
	ifID      uint32
	template  template // of protocol 0: none
}

// template says which states serve a policy.
type template struct {
	source, destination netip.Addr // of the outer header; the zero value takes any
	family              uint16
	protocol            uint8
	mode                uint8
	request             uint32
}

func (p *policy) attributes() []nl.NetlinkRequestData {
	if p.ifID == 0 {
		return nil
	}
	return []nl.NetlinkRequestData{nl.NewRtAttr(nl.XFRMA_IF_ID, nl.Uint32Attr(p.ifID))}
}

// setPolicy makes a policy or replaces the one of that selector.
func (c *conn) setPolicy(p *policy) error {
	info := &nl.XfrmUserpolicyInfo{
		Sel: p.selector.encode(), Priority: p.priority, Dir: p.direction, Action: p.action,
		Lft: nl.XfrmLifetimeCfg{SoftByteLimit: nl.XFRM_INF, HardByteLimit: nl.XFRM_INF, SoftPacketLimit: nl.XFRM_INF, HardPacketLimit: nl.XFRM_INF},
	}
	parts := append([]nl.NetlinkRequestData{info}, p.attributes()...)
	if t := p.template; t.protocol != 0 {
		u := nl.XfrmUserTmpl{Family: t.family, Reqid: t.request, Mode: t.mode, Aalgos: ^uint32(0), Ealgos: ^uint32(0), Calgos: ^uint32(0)}
		u.XfrmId.Proto = t.protocol
		if t.destination.IsValid() {
			setAddress(&u.XfrmId.Daddr, t.destination)
			setAddress(&u.Saddr, t.source)
		}
		parts = append(parts, nl.NewRtAttr(nl.XFRMA_TMPL, u.Serialize()))
	}
	_, err := c.do(nl.XFRM_MSG_UPDPOLICY, unix.NLM_F_ACK, parts...)
	return err
}

// deletePolicy removes a policy; one that is not there is no error.
func (c *conn) deletePolicy(p *policy) error {
	id := &nl.XfrmUserpolicyId{Sel: p.selector.encode(), Dir: p.direction}
	_, err := c.do(nl.XFRM_MSG_DELPOLICY, unix.NLM_F_ACK, append([]nl.NetlinkRequestData{id}, p.attributes()...)...)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

// policies returns those in the kernel, without their templates' insides other
// than the request ID.
func (c *conn) policies() ([]*policy, error) {
	out, err := c.do(nl.XFRM_MSG_GETPOLICY, unix.NLM_F_DUMP)
	if err != nil {
		return nil, err
	}
	var all []*policy
	for _, b := range out {
		if len(b) < nl.SizeofXfrmUserpolicyInfo {
			return nil, errShort
		}
		info := nl.DeserializeXfrmUserpolicyInfo(b)
		p := &policy{selector: decodeSelector(&info.Sel), direction: info.Dir, priority: info.Priority, action: info.Action}
		attrs, err := nl.ParseRouteAttr(b[nl.SizeofXfrmUserpolicyInfo:])
		if err != nil {
			return nil, err
		}
		for _, a := range attrs {
			switch {
			case a.Attr.Type == nl.XFRMA_IF_ID:
				p.ifID = binary.NativeEndian.Uint32(a.Value)
			case a.Attr.Type == nl.XFRMA_TMPL && len(a.Value) >= nl.SizeofXfrmUserTmpl:
				t := nl.DeserializeXfrmUserTmpl(a.Value)
				p.template = template{request: t.Reqid, protocol: t.XfrmId.Proto}
			}
		}
		all = append(all, p)
	}
	return all, nil
}
