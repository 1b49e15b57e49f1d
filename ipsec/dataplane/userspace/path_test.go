package userspace

import (
	"bytes"
	"encoding/binary"
	"log/slog"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/swanherd/swanherd/ipsec/dataplane"
	"github.com/swanherd/swanherd/ipsec/dataplane/internal/checksum"
	"github.com/swanherd/swanherd/ipsec/esp"
	"github.com/swanherd/swanherd/ipsec/ts"
)

// newPath makes a plane without goroutines and without privileges: its socket is
// on the loopback interface and its device writes to out.
func newPath(t testing.TB, out *os.File) *Plane {
	t.Helper()
	s, err := openSocket(netip.MustParseAddrPort("127.0.0.1:0"), 0, 1)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.close() })
	in := newInside("")
	in.device = &device{intakes: []*intake{{queues: []int{int(out.Fd())}}}, outlet: int(out.Fd()), mergeTCP: true, mergeUDP: true}
	p := &Plane{
		logger:  slog.New(slog.DiscardHandler),
		insides: []*inside{in},
		socket:  s, endpoints: newEndpoints(), events: make(chan dataplane.Event, eventBuffer), inbound: newSPITable(),
		reserved: map[uint32]bool{}, sas: map[saKey]*association{}, children: map[childKey]*child{},
	}
	p.insides[0].mtus = p.socket.probes
	p.insides[0].transmitters = []*transmitter{newTransmitter(p, p.insides[0], 0)}
	return p
}

func openNull(t testing.TB) *os.File {
	t.Helper()
	f, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// connect gives p one tunnel to itself, whose packets go to the sink.
func (p *Plane) connect(t testing.TB, sink netip.AddrPort) (out, in dataplane.SA) {
	t.Helper()
	all := []ts.Selector{ts.FromPrefix(netip.MustParsePrefix("0.0.0.0/0")), ts.FromPrefix(netip.MustParsePrefix("::/0"))}
	sa := dataplane.SA{
		SPI: 0x1000, Tunnel: "t", Child: "c", Suite: gcm128, Key: make([]byte, gcm128.KeyLen()),
		Local: p.socket.local, Remote: sink, LocalTS: all, RemoteTS: all,
	}
	out, in = sa, sa
	out.Direction, in.Direction = dataplane.Outbound, dataplane.Inbound
	for _, err := range p.Apply([]dataplane.Op{
		dataplane.SetPolicy{Policy: dataplane.Policy{Tunnel: "t", Child: "c", LocalTS: all, RemoteTS: all}},
		dataplane.InstallSA{SA: in},
		dataplane.InstallSA{SA: out},
	}) {
		if err != nil {
			t.Fatal(err)
		}
	}
	return out, in
}

// superPacket is what TUN gives for a TCP or UDP send of size octets: vnet
// header, headers, payload.
func superPacket(v6, udp bool, size, segment int) []byte {
	ip, transport := ipv4HeaderLen, 32 // TCP with timestamps
	if v6 {
		ip = ipv6HeaderLen
	}
	v := vnetHeader{needsChecksum: true, checksumStart: ip, checksumOffset: 16, segmentSize: segment}
	v.gsoType = unix.VIRTIO_NET_HDR_GSO_TCPV4
	switch {
	case udp:
		v.gsoType, v.checksumOffset, transport = unix.VIRTIO_NET_HDR_GSO_UDP_L4, 6, 8
	case v6:
		v.gsoType = unix.VIRTIO_NET_HDR_GSO_TCPV6
	}
	if size <= segment {
		v.gsoType, v.segmentSize = unix.VIRTIO_NET_HDR_GSO_NONE, 0
	}
	b := make([]byte, vnetHeaderLen+ip+transport+size, vnetHeaderLen+maxPacket+esp.TrailerRoom)
	v.put(b, ip+transport)
	p := b[vnetHeaderLen:]
	protocol := uint8(protoTCP)
	if udp {
		protocol = protoUDP
	}
	if v6 {
		p[0], p[6], p[7] = 0x60, protocol, 64
		binary.BigEndian.PutUint16(p[4:], uint16(len(p)-ip))
		p[8], p[23], p[24], p[39] = 0xfd, 1, 0xfd, 2
	} else {
		p[0], p[6], p[8], p[9] = 0x45, 0x40, 64, protocol
		binary.BigEndian.PutUint16(p[2:], uint16(len(p)))
		binary.BigEndian.PutUint16(p[4:], 0xfff0) // identification, about to wrap
		copy(p[12:], []byte{10, 1, 0, 1, 10, 2, 0, 1})
		binary.BigEndian.PutUint16(p[10:], ^checksum.Fold(checksum.Add(p[:ip], 0)))
	}
	l4 := p[ip:]
	binary.BigEndian.PutUint16(l4, 1000)
	binary.BigEndian.PutUint16(l4[2:], 2000)
	if udp {
		binary.BigEndian.PutUint16(l4[4:], uint16(len(l4)))
	} else {
		binary.BigEndian.PutUint32(l4[4:], 0xffffff00) // sequence number, about to wrap
		binary.BigEndian.PutUint32(l4[8:], 12345)
		l4[12], l4[13], l4[15] = 8<<4, tcpACK|tcpPSH, 200
		copy(l4[20:], []byte{1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8})
	}
	for i := range l4[transport:] {
		l4[transport+i] = byte(i * 7)
	}
	binary.BigEndian.PutUint16(l4[v.checksumOffset:], checksum.Fold(pseudoSum(p, v6, len(l4))))
	return b
}

// TestSegmentThenMerge: what one end cuts, the other end's merger makes whole
// again, whatever the sizes; and each segment by itself is a right packet.
func TestSegmentThenMerge(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	if _, err := unix.FcntlInt(w.Fd(), unix.F_SETPIPE_SZ, 1<<20); err != nil {
		t.Skipf("SKIPPED: no pipe of 1 MB (%v)", err)
	}
	p := newPath(t, w)
	read := make([]byte, 1<<20)
	rapid.Check(t, func(t *rapid.T) {
		v6, udp := rapid.Bool().Draw(t, "IPv6"), rapid.Bool().Draw(t, "UDP")
		segment := rapid.IntRange(1, 1400).Draw(t, "segment")
		size := rapid.IntRange(segment+1, min(segment*maxMerged, 65000)).Draw(t, "size")
		packet := superPacket(v6, udp, size, segment)
		want := bytes.Clone(packet)

		var s segmenter
		if !s.start(parseVnetHeader(packet), packet[vnetHeaderLen:]) {
			t.Fatal("the segmenter refused a good super-packet")
		}
		m := newMerger(p, p.insides[0], p.insides[0].device.outlets(0))
		for b := s.next(); b != nil; b = s.next() {
			b = bytes.Clone(b) // as if it had travelled
			var in inner
			if !in.parse(b) || in.length != len(b) {
				t.Fatalf("segment of %d octets does not parse", len(b))
			}
			if !transportChecksumOK(b, in.transport, v6) || !v6 && checksum.Fold(checksum.Add(b[:ipv4HeaderLen], 0)) != 0xffff {
				t.Fatal("a segment has a wrong checksum")
			}
			m.add(b, &in)
		}
		m.flushAll()
		n, err := r.Read(read)
		if err != nil {
			t.Fatal(err)
		}
		binary.LittleEndian.PutUint16(want[6:], uint16(s.transport))
		if !bytes.Equal(read[:n], want) {
			t.Fatalf("merged %d octets, want %d\n%x\n%x", n, len(want), read[:min(n, 90)], want[:90])
		}
	})
}

// TestMergeKeepsWhatDiffers: packets that must not be merged arrive one by one,
// unchanged and in order.
func TestMergeKeepsWhatDiffers(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	p := newPath(t, w)
	single := func(change func([]byte)) []byte {
		b := superPacket(false, false, 100, 100)
		completeChecksum(parseVnetHeader(b), b[vnetHeaderLen:])
		b = b[vnetHeaderLen:]
		change(b)
		return b
	}
	resum := func(b []byte) {
		b[36], b[37] = 0, 0
		sum := ^checksum.Fold(checksum.Add(b[20:], pseudoSum(b, false, len(b)-20)))
		binary.BigEndian.PutUint16(b[36:], sum)
	}
	second := func(b []byte) { binary.BigEndian.PutUint32(b[24:], 0xffffff00+100); b[33] = tcpACK }
	for name, change := range map[string]func([]byte){
		"wrong checksum":          func(b []byte) { second(b); resum(b); b[60]++ },
		"another acknowledgment":  func(b []byte) { second(b); b[31]++; resum(b) },
		"gap in the sequence":     func(b []byte) { second(b); b[27]++; resum(b) },
		"another traffic class":   func(b []byte) { second(b); b[1] = 3; resum(b) },
		"another window":          func(b []byte) { second(b); b[35]++; resum(b) },
		"another timestamp":       func(b []byte) { second(b); b[47]++; resum(b) },
		"FIN":                     func(b []byte) { second(b); b[33] |= tcpFIN; resum(b) },
		"another time to live":    func(b []byte) { second(b); b[8]--; resum(b) },
		"a fragment":              func(b []byte) { second(b); b[6] = 0x20; resum(b) },
		"other identification":    func(b []byte) { second(b); b[6] = 0; resum(b) },
		"the flow before is done": func(b []byte) { second(b); resum(b) }, // first has PSH
	} {
		t.Run(name, func(t *testing.T) {
			m := newMerger(p, p.insides[0], p.insides[0].device.outlets(0))
			first := single(func(b []byte) {
				if name != "the flow before is done" {
					b[33] = tcpACK
				}
				if name == "other identification" {
					b[6] = 0
				}
				resum(b)
			})
			other := single(change)
			for _, b := range [][]byte{first, other} {
				var in inner
				in.parse(b)
				m.add(b, &in)
			}
			m.flushAll()
			buf := make([]byte, 4096)
			n, err := r.Read(buf)
			if err != nil {
				t.Fatal(err)
			}
			zero := make([]byte, vnetHeaderLen)
			want := bytes.Join([][]byte{zero, first, zero, other}, nil)
			if !bytes.Equal(buf[:n], want) {
				t.Errorf("got\n%x\nwant\n%x", buf[:n], want)
			}
		})
	}
}

// pathBench is both halves of the path, driven by hand.
type pathBench struct {
	plane *Plane
	tx    *transmitter
	rx    *receiver
	sink  *socket
	buf   []byte
}

func newPathBench(t testing.TB) *pathBench {
	p := newPath(t, openNull(t))
	sink := openPeer(t)
	unix.SetsockoptInt(sink.fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 1) // full at once: packets end there
	p.connect(t, sink.local)
	rx := newReceiver(p, nil, &inbox{}, 0)
	return &pathBench{plane: p, tx: p.insides[0].transmitters[0], rx: rx, sink: sink, buf: make([]byte, 2*maxPacket)}
}

func (b *pathBench) transmit(packet []byte) {
	n := copy(b.buf, packet)
	if b.tx.arrived.Load() {
		b.tx.sendKept()
	}
	b.tx.take(b.buf[:n])
	b.tx.flushAll()
}

// receive takes sealed packets as if they had come in one slab.
func (b *pathBench) receive(sealed []byte, size int) {
	b.rx.now = time.Now()
	n := copy(b.buf, sealed)
	for rest := b.buf[:n]; len(rest) > 0; rest = rest[min(size, len(rest)):] {
		b.rx.datagram(rest[:min(size, len(rest))])
	}
	b.rx.finish()
}

// sealAll returns the ESP packets for the segments of a super-packet.
func (b *pathBench) sealAll(t testing.TB, packet []byte) (sealed []byte, size int) {
	t.Helper()
	copy(b.buf, packet)
	var s segmenter
	if !s.start(parseVnetHeader(b.buf), b.buf[vnetHeaderLen:len(packet)]) {
		t.Fatal("bad super-packet")
	}
	next := uint8(esp.NextHeaderIPv4)
	if s.v6 {
		next = esp.NextHeaderIPv6
	}
	out := b.plane.children[childKey{"t", "c"}].carrier(0).esp
	for seg := s.next(); seg != nil; seg = s.next() {
		if size == 0 {
			size = out.SealedLen(len(seg))
		}
		var err error
		if sealed, err = out.Seal(sealed, seg, next); err != nil {
			t.Fatal(err)
		}
	}
	return sealed, size
}

func TestPathDoesNotAllocate(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		b := newPathBench(t)
		b.rx.source = &b.rx.in.names[0]
		packet := superPacket(v6, false, 40000, 1360)
		if n := testing.AllocsPerRun(100, func() { b.transmit(packet) }); n != 0 {
			t.Errorf("IPv6 %v: transmitting a super-packet allocates %v times", v6, n)
		}
		var slabs [][]byte
		var size int
		for range 110 {
			var sealed []byte
			sealed, size = b.sealAll(t, packet)
			slabs = append(slabs, sealed)
		}
		i := 0
		if n := testing.AllocsPerRun(100, func() { b.receive(slabs[i], size); i++ }); n != 0 {
			t.Errorf("IPv6 %v: receiving a slab allocates %v times", v6, n)
		}
		if d := b.plane.Drops(); d.Malformed+d.NoSA+d.NoPolicy+d.DeliverErrors > 0 {
			t.Errorf("packets were dropped: %+v", d)
		}
		for _, d := range []dataplane.Direction{dataplane.Inbound, dataplane.Outbound} {
			if s := b.plane.Latency(d); s.Count != 101 || s.Quantile(1) <= 0 {
				t.Errorf("latency of %d batches %s, want 101", s.Count, d)
			}
		}
		if c := b.plane.Counters(); c[0].Packets < 101*30 || c[1].Packets < 101*30 {
			t.Errorf("too few packets: %+v", c)
		}
	}
}

// BenchmarkTransmit is the way of a super-packet of 40 KB from the interface to
// the loopback network; the read from the interface is not in it.
func BenchmarkTransmit(b *testing.B) {
	x := newPathBench(b)
	packet := superPacket(false, false, 40000, 1360)
	b.SetBytes(40000)
	b.ReportAllocs()
	for b.Loop() {
		x.transmit(packet)
	}
}

// BenchmarkReceive is the way of 30 ESP packets from the socket to the
// interface, without either of them.
func BenchmarkReceive(b *testing.B) {
	x := newPathBench(b)
	x.rx.source = &x.rx.in.names[0]
	packet := superPacket(false, false, 40000, 1360)
	const made = 64
	var slabs [made][]byte
	var size int
	for i := range slabs {
		slabs[i], size = x.sealAll(b, packet)
	}
	in := x.plane.inbound.get(0x1000)
	config := esp.Config{SPI: 0x1000, Suite: gcm128, Key: make([]byte, gcm128.KeyLen())}
	b.SetBytes(40000)
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		if i%made == 0 { // begin the sequence numbers anew
			var err error
			if in.esp, err = esp.NewInbound(config); err != nil {
				b.Fatal(err)
			}
		}
		x.receive(slabs[i%made], size)
		i++
	}
}

// BenchmarkReceiveSingly is the way of ESP packets whose datagrams have no UDP checksum,
// and are not merged therefore, from the kernel's queue to the interface, without that.
func BenchmarkReceiveSingly(b *testing.B) {
	x := newPathBench(b)
	l, to := x.plane.socket.lanes[0].find(&endpoint{}), x.plane.socket.newEndpoint(netip.AddrPort{}, x.plane.socket.local, false)
	if err := unix.SetsockoptInt(l.fd, unix.SOL_SOCKET, unix.SO_NO_CHECK, 1); err != nil {
		b.Fatal(err)
	}
	const segment = 1360
	sealed, size := x.sealAll(b, superPacket(false, false, 40*segment, segment))
	in := x.plane.inbound.get(0x1000)
	config := esp.Config{SPI: 0x1000, Suite: gcm128, Key: make([]byte, gcm128.KeyLen())}
	var took time.Duration
	var packets int
	for b.Loop() {
		var err error
		if in.esp, err = esp.NewInbound(config); err != nil { // begin the sequence numbers anew
			b.Fatal(err)
		}
		for rest := sealed; len(rest) > 0; rest = rest[min(size, len(rest)):] {
			if errno := l.sendWait(to, rest[:min(size, len(rest))], &control{}, true); errno != 0 {
				b.Fatal(errno)
			}
		}
		start := time.Now()
		for x.rx.in.receive(); x.rx.in.n > 0; x.rx.in.receive() {
			packets += x.rx.in.n
			x.rx.batch()
		}
		took += time.Since(start)
	}
	if c := x.plane.Counters(); c[0].Packets+c[1].Packets < uint64(packets) {
		b.Errorf("%d packets received, counted %+v", packets, c)
	}
	b.ReportMetric(float64(took.Nanoseconds())/float64(packets), "ns/packet")
}
