package ipsectest

import (
	"fmt"

	"github.com/swanherd/swanherd/ipsec/notation"
	"github.com/swanherd/swanherd/ipsec/wire"
)

// DescribeMessage renders octets as they are on the wire, without decrypting
// them, and says so if they are not an IKE message.
func DescribeMessage(b []byte) string {
	m, err := wire.Parse(b)
	if err != nil {
		return fmt.Sprintf("malformed(%d) %v", len(b), err)
	}
	return notation.Message(m.Header, m.Payloads)
}
