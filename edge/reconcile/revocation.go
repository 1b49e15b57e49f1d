package reconcile

import (
	"crypto/x509"
	"fmt"
	"strings"
	"sync/atomic"
)

// Revocation is the list of certificates that are no longer good. It is looked
// up at each authentication, so a change of it is no change of any tunnel. It is
// safe for concurrent use; the zero value is an empty list.
type Revocation struct {
	serials atomic.Pointer[map[string]bool]
}

// Set replaces the list with serial numbers in hexadecimal.
func (r *Revocation) Set(serials []string) {
	set := make(map[string]bool, len(serials))
	for _, s := range serials {
		set[canonicalSerial(s)] = true
	}
	r.serials.Store(&set)
}

// Check returns an error if c is on the list.
func (r *Revocation) Check(c *x509.Certificate) error {
	if set := r.serials.Load(); set != nil && (*set)[canonicalSerial(c.SerialNumber.Text(16))] {
		return fmt.Errorf("certificate of %s with serial number %x is revoked", c.Subject, c.SerialNumber)
	}
	return nil
}

// canonicalSerial is lower-case, without colons and leading zeros.
func canonicalSerial(s string) string {
	return strings.TrimLeft(strings.ToLower(strings.ReplaceAll(s, ":", "")), "0")
}
