// Package digest names intent resources by their content, so that any replica
// of the controller and the edge agree on what an edge has without sharing
// state.
//
// The version of a resource is a hash over a canonical encoding of its own:
// protobuf's deterministic marshalling is only stable within one build of one
// library, and replicas of different builds must agree during an upgrade.
package digest

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"math"
	"slices"
	"sync"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// VersionSize is the size of a resource version and of a set digest in octets.
const VersionSize = 16

// Of returns the content version of m: the first VersionSize octets of
// SHA-256 over its canonical encoding.
func Of(m proto.Message) []byte {
	sum := sha256.Sum256(appendMessage(make([]byte, 0, 1024), m.ProtoReflect()))
	return sum[:VersionSize:VersionSize]
}

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

// fieldsByNumber holds the fields of a message in the order of their numbers,
// by protoreflect.MessageDescriptor.
var fieldsByNumber sync.Map

func sortedFields(d protoreflect.MessageDescriptor) []protoreflect.FieldDescriptor {
	if sorted, ok := fieldsByNumber.Load(d); ok {
		return sorted.([]protoreflect.FieldDescriptor)
	}
	fields := make([]protoreflect.FieldDescriptor, d.Fields().Len())
	for i := range fields {
		fields[i] = d.Fields().Get(i)
	}
	slices.SortFunc(fields, func(x, y protoreflect.FieldDescriptor) int { return cmp.Compare(x.Number(), y.Number()) })
	fieldsByNumber.Store(d, fields)
	return fields
}

// appendMessage appends the populated fields of m in the order of their
// numbers. Unknown fields are left out: what a build does not know it cannot
// have planned.
func appendMessage(b []byte, m protoreflect.Message) []byte {
	for _, d := range sortedFields(m.Descriptor()) {
		if !m.Has(d) {
			continue
		}
		v := m.Get(d)
		b = binary.AppendUvarint(b, uint64(d.Number()))
		switch {
		case d.IsMap():
			b = appendMap(b, d, v.Map())
		case d.IsList():
			l := v.List()
			b = binary.AppendUvarint(b, uint64(l.Len()))
			for i := range l.Len() {
				b = appendValue(b, d, l.Get(i))
			}
		default:
			b = appendValue(b, d, v)
		}
	}
	return b
}

func appendMap(b []byte, d protoreflect.FieldDescriptor, m protoreflect.Map) []byte {
	var entries [][]byte
	m.Range(func(k protoreflect.MapKey, v protoreflect.Value) bool {
		e := appendValue(nil, d.MapKey(), k.Value())
		entries = append(entries, appendValue(e, d.MapValue(), v))
		return true
	})
	slices.SortFunc(entries, slices.Compare)
	b = binary.AppendUvarint(b, uint64(len(entries)))
	for _, e := range entries {
		b = append(b, e...)
	}
	return b
}

func appendValue(b []byte, d protoreflect.FieldDescriptor, v protoreflect.Value) []byte {
	switch d.Kind() {
	case protoreflect.MessageKind, protoreflect.GroupKind:
		return appendNested(b, v.Message())
	case protoreflect.StringKind:
		return appendString(b, v.String())
	case protoreflect.BytesKind:
		return appendString(b, string(v.Bytes()))
	case protoreflect.BoolKind:
		if v.Bool() {
			return append(b, 1)
		}
		return append(b, 0)
	case protoreflect.EnumKind:
		return binary.AppendVarint(b, int64(v.Enum()))
	case protoreflect.FloatKind, protoreflect.DoubleKind:
		return binary.BigEndian.AppendUint64(b, math.Float64bits(v.Float()))
	case protoreflect.Uint32Kind, protoreflect.Uint64Kind, protoreflect.Fixed32Kind, protoreflect.Fixed64Kind:
		return binary.AppendUvarint(b, v.Uint())
	default:
		return binary.AppendVarint(b, v.Int())
	}
}

// appendNested appends the encoding of m with its length before it, which is
// known only afterwards.
func appendNested(b []byte, m protoreflect.Message) []byte {
	start := len(b)
	b = appendMessage(b, m)
	var length [binary.MaxVarintLen64]byte
	n := binary.PutUvarint(length[:], uint64(len(b)-start))
	return slices.Insert(b, start, length[:n]...)
}

func appendString(b []byte, s string) []byte {
	b = binary.AppendUvarint(b, uint64(len(s)))
	return append(b, s...)
}
