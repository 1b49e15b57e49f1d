package access

import (
	"fmt"
	"unicode/utf8"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto" // the codec that Codec extends
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// Codec is gRPC's codec of protobuf, save that a message that cannot be decoded
// reaches the Guard, which answers INVALID_ARGUMENT. gRPC itself would answer
// INTERNAL, before any interceptor, as if it were the controller that is broken.
//
// Of what an edge says, fields that the controller does not know are dropped: it keeps
// reports, and hands them on, and those have no bound. A message of more than maxParts is not
// decoded: an empty part has two octets, and takes hundreds in memory.
type Codec struct{ encoding.CodecV2 }

// NewCodec returns the codec of the controller's servers.
func NewCodec() Codec { return Codec{encoding.GetCodecV2("proto")} }

// undecodable is the number of a field that no message has. A message that could
// not be decoded holds nothing else: the path of the text that is not UTF-8, or
// nothing when it is no protobuf at all.
const undecodable = protowire.MaxValidNumber

// crowded is likewise of a message that has too many parts.
const crowded = undecodable - 1

const (
	// maxParts is how many messages the one of an edge holds, itself included: several times
	// as many as 1 MiB of counters, which is what an agent says at a time.
	maxParts = 1 << 17
	// uncounted is the size in octets of a message below which its parts are not counted.
	uncounted = 2 * maxParts
)

// Unmarshal decodes data into v.
func (c Codec) Unmarshal(data mem.BufferSlice, v any) error {
	if m, ok := v.(*swanherdv1.EdgeMessage); ok {
		return decodeEdge(data, m)
	}
	err := c.CodecV2.Unmarshal(data, v)
	if m, ok := v.(proto.Message); ok && err != nil {
		mark(m, undecodable, badText(data.Materialize(), m.ProtoReflect().Descriptor()))
		return nil
	}
	return err
}

func decodeEdge(data mem.BufferSlice, m *swanherdv1.EdgeMessage) error {
	octets := data.MaterializeToBuffer(mem.DefaultBufferPool())
	defer octets.Free()
	b := octets.ReadOnlyData()
	if d := m.ProtoReflect().Descriptor(); len(b) > uncounted && parts(b, d) > maxParts {
		mark(m, crowded, "")
	} else if err := (proto.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(b, m); err != nil {
		mark(m, undecodable, badText(b, d))
	}
	return nil
}

// mark has a message that is not decoded say why.
func mark(m proto.Message, number protowire.Number, text string) {
	proto.Reset(m)
	tag := protowire.AppendTag(nil, number, protowire.BytesType)
	m.ProtoReflect().SetUnknown(protowire.AppendString(tag, text))
}

// parts counts the messages in the encoding of one, itself included; what comes after
// octets that are no field is not counted.
func parts(b []byte, d protoreflect.MessageDescriptor) int {
	count := 1
	for len(b) > 0 {
		number, kind, tag := protowire.ConsumeTag(b)
		if tag < 0 {
			break
		}
		size := protowire.ConsumeFieldValue(number, kind, b[tag:])
		if size < 0 {
			break
		}
		if f := d.Fields().ByNumber(number); f != nil && f.Message() != nil && kind == protowire.BytesType {
			content, _ := protowire.ConsumeBytes(b[tag:])
			count += parts(content, f.Message())
		}
		b = b[tag+size:]
	}
	return count
}

// badText is the path of the first text that is not UTF-8; empty when there is none.
func badText(b []byte, d protoreflect.MessageDescriptor) string {
	seen := map[protowire.Number]int{}
	for len(b) > 0 {
		number, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return ""
		}
		size := protowire.ConsumeFieldValue(number, kind, b[n:])
		if size < 0 {
			return ""
		}
		value := b[n : n+size]
		b = b[n+size:]
		f := d.Fields().ByNumber(number)
		if f == nil || kind != protowire.BytesType {
			continue
		}
		path := string(f.Name())
		if f.IsList() {
			path = fmt.Sprintf("%s[%d]", path, seen[number])
		}
		seen[number]++
		content, _ := protowire.ConsumeBytes(value)
		switch {
		case f.Kind() == protoreflect.StringKind && !utf8.Valid(content):
			return path
		case f.Message() == nil:
		case f.IsMap() && badText(content, f.Message()) != "":
			return path
		default:
			if inside := badText(content, f.Message()); inside != "" {
				return path + "." + inside
			}
		}
	}
	return ""
}

// decoded refuses a message that could not be decoded.
func decoded(m proto.Message) error {
	r := m.ProtoReflect()
	number, kind, n := protowire.ConsumeTag(r.GetUnknown())
	if n < 0 || kind != protowire.BytesType || number != undecodable && number != crowded {
		return nil
	}
	if number == crowded {
		return status.Errorf(codes.ResourceExhausted, "the message holds more than %d others; say less at a time", maxParts)
	}
	if path, _ := protowire.ConsumeString(r.GetUnknown()[n:]); path != "" {
		return Invalid(path, "is not UTF-8; encode it as UTF-8")
	}
	return status.Errorf(codes.InvalidArgument, "the request is no %s: it cannot be decoded as protobuf", r.Descriptor().Name())
}
