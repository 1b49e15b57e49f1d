// Package digest names intent resources by their content, so that any replica
// of the controller and the edge agree on what an edge has without sharing
// state.
//
// The version of a resource is a hash over a canonical encoding of its own:
// protobuf's deterministic marshalling is only stable within one build of one
// library, and replicas of different builds must agree during an upgrade.
package digest

import (
	"crypto/sha256"
	"sync"

	"google.golang.org/protobuf/proto"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// VersionSize is the size of a resource version and of a set digest in octets.
const VersionSize = 16

// Of returns the content version of m: the first VersionSize octets of
// SHA-256 over its canonical encoding.
func Of(m proto.Message) []byte {
	b := encodings.Get().(*[]byte)
	defer encodings.Put(b)
	*b = appendEncoding((*b)[:0], m)
	sum := sha256.Sum256(*b)
	clear(*b) // there may be a pre-shared key in it
	return sum[:VersionSize:VersionSize]
}

// encodings holds buffers for encodings.
var encodings = sync.Pool{New: func() any { return new([]byte) }}

// Resource wraps body, an EdgeSettings, TrustBundle or TunnelIntent, as a resource
// with its version. Settings are named "settings", the bundle "trust", tunnels by
// their own name.
func Resource(body proto.Message) *swanherdv1.IntentResource {
	r := &swanherdv1.IntentResource{Version: Of(body)}
	switch body := body.(type) {
	case *swanherdv1.EdgeSettings:
		r.Name = "settings"
		r.Body = &swanherdv1.IntentResource_Settings{Settings: body}
	case *swanherdv1.TrustBundle:
		r.Name = "trust"
		r.Body = &swanherdv1.IntentResource_Trust{Trust: body}
	case *swanherdv1.TunnelIntent:
		r.Name = body.GetName()
		r.Body = &swanherdv1.IntentResource_Tunnel{Tunnel: body}
	default:
		panic("digest: " + string(body.ProtoReflect().Descriptor().FullName()) + " is not an intent resource")
	}
	return r
}
