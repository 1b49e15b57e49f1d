package query

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// compare orders two values of a field that is no list and no map.
func compare(d protoreflect.FieldDescriptor, a, b protoreflect.Value) int {
	switch d.Kind() {
	case protoreflect.BoolKind:
		return cmp.Compare(number(a.Bool()), number(b.Bool()))
	case protoreflect.EnumKind:
		return cmp.Compare(a.Enum(), b.Enum())
	case protoreflect.Int32Kind, protoreflect.Int64Kind, protoreflect.Sint32Kind, protoreflect.Sint64Kind, protoreflect.Sfixed32Kind, protoreflect.Sfixed64Kind:
		return cmp.Compare(a.Int(), b.Int())
	case protoreflect.Uint32Kind, protoreflect.Uint64Kind, protoreflect.Fixed32Kind, protoreflect.Fixed64Kind:
		return cmp.Compare(a.Uint(), b.Uint())
	case protoreflect.FloatKind, protoreflect.DoubleKind:
		return cmp.Compare(a.Float(), b.Float())
	case protoreflect.BytesKind:
		return strings.Compare(string(a.Bytes()), string(b.Bytes()))
	case protoreflect.MessageKind: // a time or a duration
		return cmp.Or(cmp.Compare(seconds(a), seconds(b)), cmp.Compare(nanos(a), nanos(b)))
	default:
		return strings.Compare(a.String(), b.String())
	}
}

func number(b bool) int {
	if b {
		return 1
	}
	return 0
}

// seconds and nanos are the fields 1 and 2 of both Timestamp and Duration.
func seconds(v protoreflect.Value) int64 {
	m := v.Message()
	return m.Get(m.Descriptor().Fields().ByNumber(1)).Int()
}

func nanos(v protoreflect.Value) int64 {
	m := v.Message()
	return m.Get(m.Descriptor().Fields().ByNumber(2)).Int()
}

// comparable says whether values of a field can be ordered.
func comparable(d protoreflect.FieldDescriptor) bool {
	return d.Message() == nil || isTime(d) || isDuration(d)
}

func isTime(d protoreflect.FieldDescriptor) bool {
	return d.Message() != nil && d.Message().FullName() == "google.protobuf.Timestamp"
}

func isDuration(d protoreflect.FieldDescriptor) bool {
	return d.Message() != nil && d.Message().FullName() == "google.protobuf.Duration"
}

// parse reads the text of a value of a field.
func parse(d protoreflect.FieldDescriptor, text string) (protoreflect.Value, error) {
	wrong := func(what string) (protoreflect.Value, error) {
		return protoreflect.Value{}, fmt.Errorf("%q is not %s", clip(text), what)
	}
	switch d.Kind() {
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(text), nil
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes([]byte(text)), nil
	case protoreflect.BoolKind:
		if text != "true" && text != "false" {
			return wrong("true or false")
		}
		return protoreflect.ValueOfBool(text == "true"), nil
	case protoreflect.EnumKind:
		return parseEnum(d.Enum(), text)
	case protoreflect.FloatKind, protoreflect.DoubleKind:
		if n, err := strconv.ParseFloat(text, 64); err == nil {
			return protoreflect.ValueOfFloat64(n), nil
		}
		return wrong("a number")
	case protoreflect.Uint32Kind, protoreflect.Uint64Kind, protoreflect.Fixed32Kind, protoreflect.Fixed64Kind:
		if n, err := strconv.ParseUint(text, 10, 64); err == nil {
			return protoreflect.ValueOfUint64(n), nil
		}
		return wrong("a whole number that is not negative")
	case protoreflect.MessageKind:
		return parseTime(d, text)
	default:
		if n, err := strconv.ParseInt(text, 10, 64); err == nil {
			return protoreflect.ValueOfInt64(n), nil
		}
		return wrong("a whole number")
	}
}

func parseTime(d protoreflect.FieldDescriptor, text string) (protoreflect.Value, error) {
	if isDuration(d) {
		n, err := time.ParseDuration(text)
		if err != nil {
			return protoreflect.Value{}, fmt.Errorf("%q is not a duration such as 90s or 1h30m", clip(text))
		}
		return protoreflect.ValueOfMessage(durationpb.New(n).ProtoReflect()), nil
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return protoreflect.Value{}, fmt.Errorf("%q is not a time such as 2026-01-02T15:04:05Z (RFC 3339)", clip(text))
	}
	return protoreflect.ValueOfMessage(timestamppb.New(t).ProtoReflect()), nil
}

// parseEnum takes names with the enumeration's prefix or without it.
func parseEnum(d protoreflect.EnumDescriptor, text string) (protoreflect.Value, error) {
	prefix := strings.TrimSuffix(string(d.Values().Get(0).Name()), "UNSPECIFIED")
	if v := d.Values().ByName(protoreflect.Name(text)); v != nil {
		return protoreflect.ValueOfEnum(v.Number()), nil
	}
	if v := d.Values().ByName(protoreflect.Name(prefix + text)); v != nil {
		return protoreflect.ValueOfEnum(v.Number()), nil
	}
	var names []string
	for i := range d.Values().Len() {
		names = append(names, strings.TrimPrefix(string(d.Values().Get(i).Name()), prefix))
	}
	return protoreflect.Value{}, fmt.Errorf("%q is not one of %s", clip(text), strings.Join(names, ", "))
}

// clip bounds what an error repeats.
func clip(s string) string {
	if len(s) <= 64 {
		return s
	}
	return strings.ToValidUTF8(s[:64], "") + "..."
}
