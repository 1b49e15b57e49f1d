package ike

import "net/netip"

// TCP encapsulation (RFC 9329): what a machine says and hears about the
// connections that its messages and the packets of its Child SAs go in. The
// connections are the engine's; a machine names one by the addresses and ports of
// its two ends.

// Dial asks for a TCP connection from Local, whose port is the engine's to choose,
// to Remote. It is answered by [Dialed].
type Dial struct {
	Token  Token
	Local  netip.Addr
	Remote netip.AddrPort
}

// KeepStream says that an established IKE SA uses a connection; until then one
// that the peer opened is on trial and short of time. DropStream says that this
// tunnel no longer uses it: the end that opened it closes it (RFC 9329, Section
// 6.1).
type KeepStream struct{ Local, Remote netip.AddrPort }

// DropStream ends a KeepStream, and a connection that was dialled.
type DropStream struct{ Local, Remote netip.AddrPort }

// CloseStream closes a connection at once, whoever uses it: it is corrupt.
type CloseStream struct{ Local, Remote netip.AddrPort }

func (Dial) effect()        {}
func (KeepStream) effect()  {}
func (DropStream) effect()  {}
func (CloseStream) effect() {}

// Dialed answers a [Dial] with the ends of the connection, or with the reason why
// there is none.
type Dialed struct {
	Token         Token
	Local, Remote netip.AddrPort
	Err           error
}

// StreamClosed says that a connection which the tunnel uses is gone.
type StreamClosed struct{ Local, Remote netip.AddrPort }

func (Dialed) input()       {}
func (StreamClosed) input() {}
