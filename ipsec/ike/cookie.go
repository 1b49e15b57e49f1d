package ike

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"io"
	"net/netip"
	"time"

	"github.com/swanherd/swanherd/ipsec/wire"
)

// cookieLife is how long a secret makes cookies; the one before it is accepted
// for as long again.
const cookieLife = 30 * time.Second

// CookieSecret makes and checks the stateless cookies that a loaded responder
// asks for before it commits memory or processor time to an initiator (RFC
// 7296, Section 2.6). The zero value is not usable; see NewCookieSecret. It is
// not safe for concurrent use.
type CookieSecret struct {
	rand    io.Reader
	version uint32
	changed time.Time
	current [sha256.Size]byte
	last    [sha256.Size]byte
	hasLast bool
}

// NewCookieSecret returns a secret taken from rand at time now.
func NewCookieSecret(now time.Time, rand io.Reader) (*CookieSecret, error) {
	c := &CookieSecret{rand: rand, changed: now, version: 1}
	if _, err := io.ReadFull(rand, c.current[:]); err != nil {
		return nil, err
	}
	return c, nil
}

// Make returns the cookie for an initiator at addr with its SPI and nonce. The
// port is left out, so that a NAT may change it between the two requests.
func (c *CookieSecret) Make(now time.Time, addr netip.Addr, spi wire.SPI, nonce []byte) ([]byte, error) {
	if err := c.rotate(now); err != nil {
		return nil, err
	}
	return cookie(c.version, &c.current, addr, spi, nonce), nil
}

// Check reports whether got is a cookie that Make gave to this initiator within
// about the last minute.
func (c *CookieSecret) Check(now time.Time, got []byte, addr netip.Addr, spi wire.SPI, nonce []byte) bool {
	if c.rotate(now) != nil || len(got) < 4 {
		return false
	}
	switch binary.BigEndian.Uint32(got) {
	case c.version:
		return subtle.ConstantTimeCompare(got, cookie(c.version, &c.current, addr, spi, nonce)) == 1
	case c.version - 1:
		return c.hasLast && subtle.ConstantTimeCompare(got, cookie(c.version-1, &c.last, addr, spi, nonce)) == 1
	}
	return false
}

func (c *CookieSecret) rotate(now time.Time) error {
	age := now.Sub(c.changed)
	if age < cookieLife {
		return nil
	}
	c.last, c.hasLast = c.current, age < 2*cookieLife
	c.version++
	c.changed = now
	_, err := io.ReadFull(c.rand, c.current[:])
	return err
}

// cookie is <VersionIDofSecret> | HMAC(secret, Ni | IPi | SPIi), cut to 20
// octets in all (RFC 7296, Section 2.6 gives the form as an example).
func cookie(version uint32, secret *[sha256.Size]byte, addr netip.Addr, spi wire.SPI, nonce []byte) []byte {
	mac := hmac.New(sha256.New, secret[:])
	ip := addr.Unmap().As16()
	mac.Write(ip[:])
	mac.Write(spi[:])
	mac.Write(nonce)
	out := binary.BigEndian.AppendUint32(make([]byte, 0, 4+sha256.Size), version)
	return mac.Sum(out)[:20]
}
