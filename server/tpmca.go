package server

import (
	"fmt"
	"log/slog"

	"github.com/swanherd/swanherd/server/attest"
)

// tpmCAs are the authorities of TPM manufacturers, as their file has them now.
type tpmCAs struct {
	trustedFile
	authorities *attest.Authorities
}

// readTPMCAs reads the file for the first time.
func readTPMCAs(file string, log *slog.Logger) (*tpmCAs, error) {
	c := &tpmCAs{trustedFile: trustedFile{path: file, whose: "TPM manufacturers", log: log}}
	c.take = func(text []byte) error {
		authorities, err := attest.ParseAuthorities(text)
		if err == nil {
			c.authorities = authorities
		}
		return err
	}
	if err := c.read(); err != nil {
		return nil, fmt.Errorf("--tpm-ca %s: %w", file, err)
	}
	return c, nil
}

// now reads the file again, which is as rare as that an edge shows a TPM.
func (c *tpmCAs) now() *attest.Authorities {
	c.refresh()
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.authorities
}
