package xfrm

import (
	"crypto/rand"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink/nl"

	"github.com/swanherd/swanherd/ipsec/dataplane"
	"github.com/swanherd/swanherd/ipsec/suite"
	"github.com/swanherd/swanherd/ipsec/wire"
)

const (
	probeInterface = "swan-probe"
	probeID        = interfaceID + 1 // that of an agent may be there
	probeMTU       = 1400
)

// Probe says why this kernel cannot be the data plane, nil if it can: it makes an
// interface, a socket and an SA of the default suite with extended sequence numbers,
// and removes them again. Nothing is sent. With tcp it says so of ESP in TCP too.
func Probe(tcp bool) error {
	l, err := openLink(probeInterface, probeID, probeMTU)
	if err != nil {
		return err
	}
	defer l.remove()
	s, err := openSocket("udp4", netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), 0), 0)
	if err != nil {
		return fmt.Errorf("ESP in UDP: %w", err)
	}
	defer s.Close()
	c, err := openConn()
	if err != nil {
		return fmt.Errorf("%w: this kernel has no IPsec, or not the module xfrm_user", err)
	}
	defer c.close()
	able, err := c.abilities()
	if err == nil && tcp {
		err = able.noStreams
	}
	return err
}

// abilities are what newer kernels can do. Older ones leave out attributes that they do
// not know, without saying so, or have others of the same numbers, as Ubuntu's 6.8 has.
type abilities struct {
	direction bool // an SA is of one direction (XFRMA_SA_DIR, since Linux 6.10)
	perCPU    bool // and of one CPU (XFRMA_SA_PCPU, since Linux 6.13)
	// noStreams is why there is no ESP in TCP, nil if there is.
	noStreams error
}

// abilities finds them by an SA that is removed at once.
func (c *conn) abilities() (abilities, error) {
	able, err := c.try(abilities{direction: true, perCPU: true})
	if err != nil {
		able, err = c.try(abilities{})
	}
	if err != nil {
		return able, fmt.Errorf("an SA with AES-GCM: %w", err)
	}
	able.noStreams = c.tryStreams()
	return able, nil
}

// try makes an SA that wants these abilities, and returns those of them that there are.
func (c *conn) try(want abilities) (able abilities, err error) {
	s, err := trialState(dataplane.MinSPI)
	if err != nil {
		return able, err
	}
	if want.direction {
		s.direct()
	}
	if want.perCPU {
		s.cpu = 0
	}
	// One that was killed may have left it.
	answers := c.send(s.ask(nl.XFRM_MSG_DELSA), s.newState(), s.ask(nl.XFRM_MSG_GETSA), s.ask(nl.XFRM_MSG_DELSA))
	defer clear(answers[2].body) // it has the key
	if err := firstError(answers[1:]); err != nil {
		return able, err
	}
	f, err := decodeState(answers[2].body)
	if err != nil {
		return able, err
	}
	able = abilities{direction: want.direction && f.direction == s.direction, perCPU: want.perCPU && f.cpu == s.cpu}
	s.direction, s.cpu = f.direction, f.cpu
	return able, s.differs(f)
}

// trialState is an inbound SA of loopback's with a key that nobody knows.
func trialState(spi uint32) (*state, error) {
	suite := suite.ESPSuite{Encryption: wire.EncryptionAESGCM16, KeyBits: 128, ESN: true}
	loopback := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), 0)
	a := &association{request: requestTag, cpu: anyCPU, SA: dataplane.SA{
		SPI: spi, Direction: dataplane.Inbound, Local: loopback, Remote: loopback, Suite: suite, Key: make([]byte, suite.KeyLen()),
	}}
	rand.Read(a.Key) // cannot fail
	return a.state(nil)
}
