package digest

import (
	"cmp"
	"encoding/binary"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// The canonical encoding of a message: its populated fields in the order of their
// numbers, each behind its number. Unknown fields are left out: what a build does not
// know it cannot have planned.
//
// A planner encodes the intent of a whole fleet. protobuf's own reflection makes a value
// on the heap of each string, so messages are read by their Go structs, whose fields are
// looked up once for each type. Those with fields that this does not know are encoded by
// protobuf's reflection, to the same octets.

// structs holds the fields of a message by reflect.Type, none if its struct is not
// known here.
var structs sync.Map

// structField is a field of a message.
type structField struct {
	number uint64
	index  int // in the Go struct
	list   bool
	// wrapper points to the struct that the field of the Go struct holds when, of a oneof,
	// this field is set.
	wrapper reflect.Type
	encode  func(b []byte, v reflect.Value) []byte
}

func appendEncoding(b []byte, m proto.Message) []byte { return appendStruct(b, reflect.ValueOf(m)) }

// appendStruct appends the populated fields of the message that v points to.
func appendStruct(b []byte, v reflect.Value) []byte {
	if v.IsNil() {
		return b
	}
	fields := structFields(v.Type())
	if fields == nil {
		return appendReflected(b, v.Interface().(proto.Message).ProtoReflect())
	}
	v = v.Elem()
	for i := range fields {
		f := &fields[i]
		v := v.Field(f.index)
		if v.IsZero() || v.Kind() == reflect.Slice && v.Len() == 0 {
			continue
		}
		if f.wrapper != nil {
			if v = v.Elem(); v.Type() != f.wrapper {
				continue
			}
			v = v.Elem().Field(0)
		}
		b = binary.AppendUvarint(b, f.number)
		if !f.list {
			b = f.encode(b, v)
			continue
		}
		b = binary.AppendUvarint(b, uint64(v.Len()))
		for i := range v.Len() {
			b = f.encode(b, v.Index(i))
		}
	}
	return b
}

func structFields(t reflect.Type) []structField {
	if fields, ok := structs.Load(t); ok {
		return fields.([]structField)
	}
	fields := findStructFields(t)
	structs.Store(t, fields)
	return fields
}

// findStructFields looks up where the fields of a message are in the struct that t
// points to, by the tags that protoc-gen-go writes. Nil: some are of a sort that is not
// known here.
func findStructFields(t reflect.Type) []structField {
	indices := map[string]int{}
	for i := range t.Elem().NumField() {
		tag := t.Elem().Field(i).Tag
		if parts := strings.Split(tag.Get("protobuf"), ","); len(parts) > 1 {
			indices[parts[1]] = i
		} else if oneof := tag.Get("protobuf_oneof"); oneof != "" {
			indices[oneof] = i
		}
	}
	fields := []structField{}
	for _, d := range sortedFields(reflect.Zero(t).Interface().(proto.Message).ProtoReflect().Descriptor()) {
		f := structField{number: uint64(d.Number()), list: d.IsList(), encode: structEncoder(d.Kind())}
		where := strconv.Itoa(int(d.Number()))
		oneof := d.ContainingOneof()
		if oneof != nil {
			where = string(oneof.Name())
		}
		var ok bool
		if f.index, ok = indices[where]; !ok || f.encode == nil || d.IsMap() {
			return nil
		}
		if oneof != nil {
			v := reflect.New(t.Elem())
			m := v.Interface().(proto.Message).ProtoReflect()
			m.Set(d, m.NewField(d))
			f.wrapper = v.Elem().Field(f.index).Elem().Type()
		}
		fields = append(fields, f)
	}
	return fields
}

// structEncoder says how a field of that kind is encoded, nil if it is not known here.
func structEncoder(k protoreflect.Kind) func([]byte, reflect.Value) []byte {
	switch k {
	case protoreflect.MessageKind:
		return func(b []byte, v reflect.Value) []byte {
			start := len(b)
			return insertLength(appendStruct(b, v), start)
		}
	case protoreflect.StringKind:
		return func(b []byte, v reflect.Value) []byte { return appendString(b, v.String()) }
	case protoreflect.BytesKind:
		return func(b []byte, v reflect.Value) []byte {
			return append(binary.AppendUvarint(b, uint64(v.Len())), v.Bytes()...)
		}
	case protoreflect.BoolKind:
		return func(b []byte, v reflect.Value) []byte { return appendBool(b, v.Bool()) }
	case protoreflect.Uint32Kind, protoreflect.Uint64Kind, protoreflect.Fixed32Kind, protoreflect.Fixed64Kind:
		return func(b []byte, v reflect.Value) []byte { return binary.AppendUvarint(b, v.Uint()) }
	case protoreflect.EnumKind, protoreflect.Int32Kind, protoreflect.Int64Kind, protoreflect.Sint32Kind,
		protoreflect.Sint64Kind, protoreflect.Sfixed32Kind, protoreflect.Sfixed64Kind:
		return func(b []byte, v reflect.Value) []byte { return binary.AppendVarint(b, v.Int()) }
	default:
		return nil
	}
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

// appendReflected is appendStruct by protobuf's reflection.
func appendReflected(b []byte, m protoreflect.Message) []byte {
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
		start := len(b)
		return insertLength(appendReflected(b, v.Message()), start)
	case protoreflect.StringKind:
		return appendString(b, v.String())
	case protoreflect.BytesKind:
		return appendString(b, string(v.Bytes()))
	case protoreflect.BoolKind:
		return appendBool(b, v.Bool())
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

// insertLength puts the length of what is behind start before it.
func insertLength(b []byte, start int) []byte {
	var length [binary.MaxVarintLen64]byte
	n := binary.PutUvarint(length[:], uint64(len(b)-start))
	return slices.Insert(b, start, length[:n]...)
}

func appendBool(b []byte, v bool) []byte {
	if v {
		return append(b, 1)
	}
	return append(b, 0)
}

func appendString(b []byte, s string) []byte {
	b = binary.AppendUvarint(b, uint64(len(s)))
	return append(b, s...)
}
