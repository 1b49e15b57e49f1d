package server

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"
)

// operatorCAInterval is how often the file of the operators' authorities is looked at
// besides at each handshake.
const operatorCAInterval = time.Second

// operatorCAs are the authorities of operators' client certificates, as their file has them
// now.
type operatorCAs struct {
	trustedFile
	pool  *x509.CertPool
	roots map[string]bool // by their DER
	conns map[*tls.Conn]bool
}

// readOperatorCAs reads the file for the first time.
func readOperatorCAs(file string, log *slog.Logger) (*operatorCAs, error) {
	a := &operatorCAs{trustedFile: trustedFile{path: file, whose: "operators' certificates", log: log}, conns: map[*tls.Conn]bool{}}
	a.take = a.takeAuthorities
	if err := a.read(); err != nil {
		return nil, fmt.Errorf("--operator-ca %s: %w", file, err)
	}
	return a, nil
}

// takeAuthorities ends the connections that came with a certificate of an authority that is
// no longer in the file.
func (a *operatorCAs) takeAuthorities(text []byte) error {
	pool, roots, err := parseAuthorities(text)
	if err != nil {
		return err
	}
	a.pool, a.roots = pool, roots
	for conn := range a.conns {
		a.endUntrusted(conn)
	}
	return nil
}

// parseAuthorities reads certificates in PEM, and nothing else; roots are those by their DER.
func parseAuthorities(text []byte) (pool *x509.CertPool, roots map[string]bool, err error) {
	pool, roots = x509.NewCertPool(), map[string]bool{}
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		c, err := x509.ParseCertificate(block.Bytes)
		if block.Type != "CERTIFICATE" || err != nil {
			return nil, nil, fmt.Errorf("holds a PEM block %q that is no certificate", block.Type)
		}
		pool.AddCert(c)
		roots[string(c.Raw)] = true
	}
	if len(roots) == 0 {
		return nil, nil, errors.New("holds no certificate in PEM")
	}
	return pool, roots, nil
}

// run looks at the file until ctx ends.
func (a *operatorCAs) run(ctx context.Context) {
	ticker := time.NewTicker(operatorCAInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			a.refresh()
		}
	}
}

// configure has the server ask for client certificates of the authorities of the moment.
func (a *operatorCAs) configure(s *http.Server) {
	base := s.TLSConfig
	base.ClientAuth = tls.VerifyClientCertIfGiven
	// Each connection proves its certificate: a ticket would carry an authority on that is gone.
	base.SessionTicketsDisabled = true
	base.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		a.refresh()
		a.mu.Lock()
		defer a.mu.Unlock()
		c := base.Clone()
		c.GetConfigForClient, c.ClientCAs = nil, a.pool
		return c, nil
	}
	s.ConnState = a.connState
}

// connState keeps the connections that came with a client certificate. They are active for
// the first time when the handshake is over.
func (a *operatorCAs) connState(c net.Conn, state http.ConnState) {
	conn, ok := c.(*tls.Conn)
	if !ok {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	switch state {
	case http.StateActive:
		if len(conn.ConnectionState().VerifiedChains) > 0 {
			a.conns[conn] = true
			a.endUntrusted(conn) // the file may have changed since the handshake
		}
	case http.StateClosed, http.StateHijacked:
		delete(a.conns, conn)
	}
}

// endUntrusted closes a connection whose certificate is of none of the authorities, and with
// it every call and stream.
func (a *operatorCAs) endUntrusted(conn *tls.Conn) {
	for _, chain := range conn.ConnectionState().VerifiedChains {
		if a.roots[string(chain[len(chain)-1].Raw)] {
			return
		}
	}
	conn.NetConn().Close() // not its own Close, which waits for who does not read
}
