package ike

import "fmt"

// TCPMode says whether a tunnel goes by TCP (RFC 9329).
type TCPMode uint8

// The modes. With TCPNever a peer that comes by TCP is refused; the other two take
// it. TCPFallback begins by UDP, goes on by TCP where there is no answer, and tries
// UDP again from time to time; TCPOnly is for a network that is known to block UDP.
const (
	TCPNever TCPMode = iota
	TCPFallback
	TCPOnly
)

// TCP says when a tunnel goes by TCP. Both ends have to be configured for it, as
// it is not negotiated (RFC 9329, Section 2).
type TCP struct {
	Mode TCPMode
	// Port is the peer's, DefaultNATPort if zero.
	Port uint16
	// After is how often a request is repeated by UDP before it goes by TCP, 2 if
	// zero.
	After int
}

func (c TCP) withDefaults() TCP {
	if c.Port == 0 {
		c.Port = DefaultNATPort
	}
	if c.After == 0 {
		c.After = 2
	}
	return c
}

func (c TCP) validate() error {
	switch {
	case c.Mode > TCPOnly:
		return fmt.Errorf("tcp: mode %d is not known", c.Mode)
	case c.After < 0:
		return fmt.Errorf("tcp: After is %d, it has to be positive", c.After)
	}
	return nil
}
