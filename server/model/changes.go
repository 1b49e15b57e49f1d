package model

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

const (
	// maxChanges is how many fields FieldChanges tells of.
	maxChanges = 64
	// maxChangeValue bounds a value in octets.
	maxChangeValue = 256
	// redacted takes the place of a secret.
	redacted = "(secret)"
)

// FieldChanges are the fields in which two messages differ, in the order of their paths,
// and how many more there are. One of the two may be nil. What the server sets (uid, etag,
// times of creation and update) is left out, and so are secrets.
func FieldChanges(from, to proto.Message) (changes []*swanherdv1.FieldChange, more int) {
	d := &fieldDiff{}
	switch {
	case from == nil:
		d.messages("", to.ProtoReflect().Type().Zero(), to.ProtoReflect())
	case to == nil:
		d.messages("", from.ProtoReflect(), from.ProtoReflect().Type().Zero())
	default:
		d.messages("", from.ProtoReflect(), to.ProtoReflect())
	}
	slices.SortStableFunc(d.changes, func(a, b *swanherdv1.FieldChange) int { return cmp.Compare(a.GetPath(), b.GetPath()) })
	n := min(len(d.changes), maxChanges)
	return d.changes[:n:n], len(d.changes) - n
}

type fieldDiff struct{ changes []*swanherdv1.FieldChange }

func (d *fieldDiff) messages(prefix string, from, to protoreflect.Message) {
	fields := from.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		if slices.Contains(assigned, f.Name()) || f.Name() == "name" && prefix == "" {
			continue
		}
		d.field(prefix+string(f.Name()), f, from, to)
	}
}

func (d *fieldDiff) field(path string, f protoreflect.FieldDescriptor, from, to protoreflect.Message) {
	a, b := from.Get(f), to.Get(f)
	switch {
	case !from.Has(f) && !to.Has(f) || from.Has(f) && to.Has(f) && a.Equal(b):
	case isSecret(f):
		d.note(path, hidden(from.Has(f)), hidden(to.Has(f)))
	case f.IsMap():
		d.maps(path, f, a.Map(), b.Map())
	case f.IsList() && isPlain(f):
		d.lists(path, f, a.List(), b.List())
	case isPlain(f):
		d.messages(path+".", a.Message(), b.Message())
	default:
		d.note(path, value(f, from.Has(f), a), value(f, to.Has(f), b))
	}
}

// isPlain says whether the field holds messages of ours, whose fields are told one by one.
func isPlain(f protoreflect.FieldDescriptor) bool {
	return f.Message() != nil && !strings.HasPrefix(string(f.Message().FullName()), "google.")
}

func (d *fieldDiff) maps(path string, f protoreflect.FieldDescriptor, from, to protoreflect.Map) {
	keys := map[string]protoreflect.MapKey{}
	for _, m := range []protoreflect.Map{from, to} {
		m.Range(func(k protoreflect.MapKey, _ protoreflect.Value) bool {
			keys[k.String()] = k
			return true
		})
	}
	v := f.MapValue()
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		k := keys[key]
		a, b := from.Get(k), to.Get(k)
		switch at := path + "." + key; {
		case from.Has(k) && to.Has(k) && a.Equal(b):
		case isPlain(v):
			d.messages(at+".", orZero(a, from.Has(k), to, k), orZero(b, to.Has(k), from, k))
		default:
			d.note(at, value(v, from.Has(k), a), value(v, to.Has(k), b))
		}
	}
}

// orZero is the message, or an empty one of the type of the other's.
func orZero(v protoreflect.Value, has bool, other protoreflect.Map, k protoreflect.MapKey) protoreflect.Message {
	if has {
		return v.Message()
	}
	return other.Get(k).Message().Type().Zero()
}

func (d *fieldDiff) lists(path string, f protoreflect.FieldDescriptor, from, to protoreflect.List) {
	for i := range max(from.Len(), to.Len()) {
		at := fmt.Sprintf("%s[%d]", path, i)
		var a, b protoreflect.Message
		if i < from.Len() {
			a = from.Get(i).Message()
		}
		if i < to.Len() {
			b = to.Get(i).Message()
		}
		switch {
		case a == nil:
			d.messages(at+".", b.Type().Zero(), b)
		case b == nil:
			d.messages(at+".", a, a.Type().Zero())
		default:
			d.messages(at+".", a, b)
		}
	}
}

func (d *fieldDiff) note(path, from, to string) {
	d.changes = append(d.changes, &swanherdv1.FieldChange{Path: path, OldValue: from, NewValue: to})
}

// secretNames are the ends of names of fields that hold secrets.
var secretNames = []string{"secret", "password", "psk", "ppk", "private_key"}

// isSecret says whether nobody is to read the field. Octets are keys, hashes and
// certificates, which tell a reader nothing either.
func isSecret(f protoreflect.FieldDescriptor) bool {
	options, _ := f.Options().(*descriptorpb.FieldOptions)
	return options.GetDebugRedact() || f.Kind() == protoreflect.BytesKind ||
		slices.ContainsFunc(secretNames, func(end string) bool { return strings.HasSuffix(string(f.Name()), end) })
}

func hidden(has bool) string {
	if has {
		return redacted
	}
	return ""
}

// value is how a field's value is told, of a bounded length.
func value(f protoreflect.FieldDescriptor, has bool, v protoreflect.Value) string {
	if !has {
		return ""
	}
	text := ""
	switch {
	case f.IsList():
		parts := make([]string, 0, v.List().Len())
		for i, size := 0, 0; i < v.List().Len() && size <= maxChangeValue; i++ {
			parts = append(parts, scalar(f, v.List().Get(i)))
			size += len(parts[i])
		}
		text = "[" + strings.Join(parts, ", ") + "]"
	default:
		text = scalar(f, v)
	}
	return bounded(text)
}

func scalar(f protoreflect.FieldDescriptor, v protoreflect.Value) string {
	switch {
	case f.Message() != nil: // of google's: a time, a duration
		b, err := protojson.Marshal(v.Message().Interface())
		if err != nil {
			return "(not valid)"
		}
		return string(b)
	case f.Enum() != nil:
		if known := f.Enum().Values().ByNumber(v.Enum()); known != nil {
			return string(known.Name())
		}
		return fmt.Sprint(v.Enum())
	case f.Kind() == protoreflect.StringKind:
		return fmt.Sprintf("%q", v.String())
	default:
		return v.String()
	}
}

func bounded(text string) string {
	if len(text) <= maxChangeValue {
		return text
	}
	end := maxChangeValue
	for !utf8.RuneStart(text[end]) {
		end--
	}
	return text[:end] + "…"
}
