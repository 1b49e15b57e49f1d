package xfrm

import (
	"crypto/rand"
	"fmt"
	"net/netip"

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
// and removes them again. Nothing is sent.
func Probe() error {
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
	return probeState()
}

func probeState() error {
	c, err := openConn()
	if err != nil {
		return fmt.Errorf("%w: this kernel has no IPsec, or not the module xfrm_user", err)
	}
	defer c.close()
	s := suite.ESPSuite{Encryption: wire.EncryptionAESGCM16, KeyBits: 128, ESN: true}
	key := make([]byte, s.KeyLen())
	rand.Read(key) // cannot fail
	loopback := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), 0)
	a := &association{request: requestTag, SA: dataplane.SA{
		SPI: dataplane.MinSPI, Direction: dataplane.Inbound, Tunnel: "probe", Child: "probe", Local: loopback, Remote: loopback,
		Suite: s, Key: key,
	}}
	p := &Plane{kernel: c}
	if err := p.put(a, nil); err != nil {
		return fmt.Errorf("an SA with AES-GCM: %w", err)
	}
	return c.deleteState(a.stateID())
}
