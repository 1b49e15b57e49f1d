package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/swanherd/swanherd/server/pki"
)

// authority is the controller's own authority of this moment: another replica may have put
// another one in its place.
func (s *Server) authority() *pki.Authority {
	a, err := s.pki.Serving()
	if err != nil {
		s.cfg.Log.Error("cannot take over the controller's authority as it is stored; going on with the one before", "error", err)
	}
	return a
}

// followAuthority keeps what this replica wrote down in step with the controller's authority
// until ctx ends. Certificates follow by themselves, in the handshake that shows them.
func (s *Server) followAuthority(ctx context.Context) {
	sub := s.store.Subscribe()
	defer sub.Close()
	var seen *pki.Authority
	for {
		if now := s.authority(); now != seen {
			if seen != nil {
				s.cfg.Log.Info("the controller's authority changed", "pin", now.Pin(), "trusted", len(now.Trusted()))
			}
			seen = now
			if err := repinCredential(s.cfg.DataDir, now.Pin()); err != nil {
				s.cfg.Log.Warn("the administrator's credential still pins the authority before", "error", err)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-sub.Changed():
		}
	}
}

// repinCredential has the administrator's credential in the directory, if there is one, pin
// the authority that issues now.
func repinCredential(dir, pin string) error {
	b, err := os.ReadFile(filepath.Join(dir, credentialName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var c credential
	if err := json.Unmarshal(b, &c); err != nil {
		return fmt.Errorf("%s: %w", credentialName, err)
	}
	if c.CAPin == pinPrefix+pin {
		return nil
	}
	c.CAPin = pinPrefix + pin
	_, err = writeCredential(dir, c)
	return err
}
