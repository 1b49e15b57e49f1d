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
)

// Codec is gRPC's codec of protobuf, save that a message that cannot be decoded
// reaches the Guard, which answers INVALID_ARGUMENT. gRPC itself would answer
// INTERNAL, before any interceptor, as if it were the controller that is broken.
type Codec struct{ encoding.CodecV2 }

// NewCodec returns the codec of the controller's servers.
func NewCodec() Codec { return Codec{encoding.GetCodecV2("proto")} }

// undecodable is the number of a field that no message has. A message that could
// not be decoded holds nothing else: the path of the text that is not UTF-8, or
// nothing when it is no protobuf at all.
const undecodable = protowire.MaxValidNumber

// Unmarshal decodes data into v.
func (c Codec) Unmarshal(data mem.BufferSlice, v any) error {
	err := c.CodecV2.Unmarshal(data, v)
	m, ok := v.(proto.Message)
	if err == nil || !ok {
		return err
	}
	proto.Reset(m)
	r := m.ProtoReflect()
	mark := protowire.AppendTag(nil, undecodable, protowire.BytesType)
	r.SetUnknown(protowire.AppendString(mark, badText(data.Materialize(), r.Descriptor())))
	return nil
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
	if n < 0 || number != undecodable || kind != protowire.BytesType {
		return nil
	}
	if path, _ := protowire.ConsumeString(r.GetUnknown()[n:]); path != "" {
		return Invalid(path, "is not UTF-8; encode it as UTF-8")
	}
	return status.Errorf(codes.InvalidArgument, "the request is no %s: it cannot be decoded as protobuf", r.Descriptor().Name())
}
