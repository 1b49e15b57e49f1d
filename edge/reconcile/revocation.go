package reconcile

import (
	"crypto/x509"
	"fmt"
	"maps"
	"strings"
	"sync/atomic"
)

// Revocation is the list of certificates that are no longer good. It is looked
// up at each authentication, so a change of it is no change of any tunnel. It is
// safe for concurrent use; the zero value is an empty list.
type Revocation struct {
	serials atomic.Pointer[map[string]bool]
}

// Set replaces the list with serial numbers in hexadecimal, and reports whether it
// is another one: then peers that are connected already have to be looked at
// again.
func (r *Revocation) Set(serials []string) bool {
	set := make(map[string]bool, len(serials))
	for _, s := range serials {
		set[canonicalSerial(s)] = true
	}
	old := r.serials.Swap(&set)
	return old == nil && len(set) > 0 || old != nil && !maps.Equal(*old, set)
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
