package engine

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"time"

	"github.com/swanherd/swanherd/ipsec/dataplane"
	"github.com/swanherd/swanherd/ipsec/ike"
)

// ErrClosed is returned after the engine has stopped.
var ErrClosed = errors.New("engine is closed")

// TunnelConfig describes a tunnel. Its Runtime is left empty, the engine gives
// it. A Local without an address takes the one that the host's routing chooses
// towards Remote; without a port, that of the socket the tunnel begins on: the
// engine's own where Remote has that port, the data plane's otherwise.
type TunnelConfig = ike.Config

// Config is what an engine needs.
type Config struct {
	// Plane carries the packets, and IKE on port 4500. Required.
	Plane dataplane.Plane
	// IKEAddr is where the engine listens itself, usually port 500 of the
	// unspecified address. Zero: only on the data plane's socket, which is
	// enough between peers that begin on port 4500 (RFC 7296, Section 2.23).
	IKEAddr netip.AddrPort
	// TCPAddr is where connections of peers are accepted that cannot send UDP
	// (RFC 9329), usually port 4500 of the unspecified address. Zero: nowhere.
	// Tunnels may connect by TCP all the same. The data plane has to be a
	// dataplane.StreamPlane, or a dataplane.StreamTaker that does take them.
	TCPAddr netip.AddrPort
	// Mark is put on what IKEAddr sends (SO_MARK), 0 for none; the plane has its own.
	// It tells IKE from what else this host says to its peers, where transport mode
	// has a rule lead that into the plane's interface.
	Mark uint32
	// Dial opens the connections of tunnels that go by TCP, where the engine's
	// network namespace is not that of the process. Nil: dialer does.
	Dial func(ctx context.Context, dialer *net.Dialer, address string) (net.Conn, error)
	// Shards is the number of loops, 1 to 64; the number of processors, at
	// most 8, if 0. One is enough for hundreds of tunnels.
	Shards int
	// Logger gets what a person should read. Nil discards it.
	Logger *slog.Logger
	// Rand is the source of all randomness, crypto/rand if nil. It is used
	// by many goroutines at once.
	Rand io.Reader
	// Store keeps what is to survive a restart: the secret by which peers
	// notice at once that this host has lost its IKE SAs (RFC 6290), the keys of
	// their tickets and our tickets of theirs (RFC 5723). Engines that run at the
	// same time must not share it. Nil: nothing survives, peers notice by their
	// liveness checks, and IKE SAs are made anew.
	Store  Store
	Limits Limits
	// KeyLog gets all keys, to find faults; empty it gets none.
	KeyLog KeyLog
}

// Limits bound what others can make the engine do. Zero fields get defaults.
type Limits struct {
	// HalfOpen is how many responders may be half open (4096), and
	// CookieThreshold from how many on a cookie is demanded (64). Negative:
	// always.
	HalfOpen, CookieThreshold int
	// InitPerSecond and InitBurst are the rate of IKE_SA_INIT requests of one
	// source (4, 16): above it a cookie is demanded, above eight times of it
	// the source is not heard. Addresses of configured tunnels have a budget
	// of their own.
	InitPerSecond, InitBurst int
	// Reassembly is how many octets of messages in fragments may be kept for
	// all half-open responders together (16 MiB): beyond it their fragments are
	// dropped, whole messages are not (RFC 7383, Section 5).
	Reassembly int
	// Streams is how many TCP connections may be there that no established IKE
	// SA uses (256).
	Streams int
	// Mailbox is how many datagrams wait for a loop (4096).
	Mailbox int
	// CryptoWorkers is the number of goroutines for cryptography (the number
	// of processors), Handshakes how many jobs of half-open responders may
	// wait for them (4096: about as many as two processors do until an
	// initiator that was refused repeats itself, so that a fleet which comes
	// back at once leaves none of them idle).
	CryptoWorkers, Handshakes int
	// CloseTimeout is how long a tunnel that is closed may wait for the
	// peer's answer to its Delete payload (2 s).
	CloseTimeout time.Duration
}

func (c Config) withDefaults() Config {
	if c.Shards == 0 {
		c.Shards = min(runtime.GOMAXPROCS(0), 8)
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Rand == nil {
		c.Rand = rand.Reader
	}
	if c.Dial == nil {
		c.Dial = func(ctx context.Context, dialer *net.Dialer, address string) (net.Conn, error) {
			return dialer.DialContext(ctx, "tcp", address)
		}
	}
	l := &c.Limits
	for _, d := range []struct {
		field *int
		value int
	}{
		{&l.HalfOpen, 4096},
		{&l.CookieThreshold, 64},
		{&l.InitPerSecond, 4},
		{&l.InitBurst, 16},
		{&l.Reassembly, 16 << 20},
		{&l.Streams, 256},
		{&l.Mailbox, 4096},
		{&l.CryptoWorkers, runtime.GOMAXPROCS(0)},
		{&l.Handshakes, 4096},
	} {
		if *d.field == 0 {
			*d.field = d.value
		}
	}
	if l.CloseTimeout == 0 {
		l.CloseTimeout = 2 * time.Second
	}
	return c
}

func (c Config) validate() error {
	switch l := c.Limits; {
	case c.Plane == nil:
		return errors.New("engine config: Plane is missing")
	case c.Shards < 1 || c.Shards > maxShards:
		return fmt.Errorf("engine config: Shards is %d, must be 1 to %d", c.Shards, maxShards)
	case l.HalfOpen < 1 || l.InitPerSecond < 1 || l.InitBurst < 1 || l.Reassembly < 1 || l.Streams < 1 || l.Mailbox < 1 || l.CryptoWorkers < 1 || l.Handshakes < 1:
		return errors.New("engine config: a limit is negative")
	case l.CloseTimeout < 0:
		return errors.New("engine config: CloseTimeout is negative")
	}
	return nil
}
