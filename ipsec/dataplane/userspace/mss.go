package userspace

import (
	"encoding/binary"
	"time"

	"golang.org/x/sys/unix"
)

// TCP options (RFC 9293, Section 3.1; RFC 5925, Section 2.2).
const (
	tcpOptionEnd  = 0
	tcpOptionNop  = 1
	tcpOptionMSS  = 2
	tcpOptionAuth = 29
	mssLen        = 4

	// leastMSS is what every host takes (RFC 9293, Section 3.7.1).
	leastMSS = 536
)

// tcpSYN reports whether a packet opens a connection, whole.
func (p *inner) tcpSYN(b []byte) bool {
	return p.protocol == protoTCP && p.hasPorts && !p.fragment && p.length >= p.transport+tcpHeaderLen &&
		b[p.transport+13]&tcpSYNFlag != 0
}

const tcpSYNFlag = 0x02

// clampMSS lowers the maximum segment size that the TCP SYN b announces to what
// fits into a packet of mtu octets, so that the connection works also where ICMP
// is lost (RFC 4459, Section 3.2; RFC 9293, Section 3.7.1). An option that is
// missing is not added, and one that the sender signed is not touched (TCP-AO, RFC
// 5925, Section 7.2). A wrong checksum stays wrong.
func clampMSS(b []byte, in *inner, mtu int) {
	headers := ipv4HeaderLen + tcpHeaderLen
	if in.v6 {
		headers = ipv6HeaderLen + tcpHeaderLen
	}
	most := max(mtu-headers, leastMSS)
	t := b[in.transport:in.length]
	at := findMSS(t)
	if at == 0 {
		return
	}
	old := binary.BigEndian.Uint16(t[at:])
	if int(old) <= most {
		return
	}
	binary.BigEndian.PutUint16(t[at:], uint16(most))
	was, is := old, uint16(most)
	if at%2 != 0 { // across two words of the checksum
		was, is = was<<8|was>>8, is<<8|is>>8
	}
	binary.BigEndian.PutUint16(t[16:], updateChecksum(binary.BigEndian.Uint16(t[16:]), was, is))
}

// findMSS returns where in the TCP header t the value of its MSS option is, 0 if
// there is none or it must not be changed.
func findMSS(t []byte) int {
	end := int(t[12]>>4) * 4
	if end < tcpHeaderLen || end > len(t) {
		return 0
	}
	found := 0
	for i := tcpHeaderLen; i < end; {
		switch t[i] {
		case tcpOptionEnd:
			return found
		case tcpOptionNop:
			i++
			continue
		}
		if i+1 >= end || t[i+1] < 2 || i+int(t[i+1]) > end || t[i] == tcpOptionAuth {
			return 0
		}
		if t[i] == tcpOptionMSS && t[i+1] == mssLen {
			found = i + 2
		}
		i += int(t[i+1])
	}
	return found
}

// updateChecksum changes a checksum for one word that became another (RFC 1624,
// Section 3, equation 3).
func updateChecksum(sum, was, is uint16) uint16 {
	s := uint32(^sum) + uint32(^was) + uint32(is)
	s = s>>16 + s&0xffff
	s = s>>16 + s&0xffff
	return ^uint16(s)
}

// interfaceMTU is the MTU of the TUN interface as of late: who runs the host may
// change it. Each goroutine has one of its own.
type interfaceMTU struct {
	mtu   int
	asked time.Time
}

// get returns 65535 where the kernel does not tell.
func (m *interfaceMTU) get(in *inside, now time.Time) int {
	if now.Sub(m.asked) < pathInterval {
		return m.mtu
	}
	m.asked, m.mtu = now, maxMTU
	request, err := unix.NewIfreq(in.device.name)
	if err != nil {
		return m.mtu
	}
	for _, fd := range in.mtus.fd {
		if fd >= 0 && unix.IoctlIfreq(fd, unix.SIOCGIFMTU, request) == nil {
			m.mtu = int(request.Uint32())
			break
		}
	}
	return m.mtu
}
