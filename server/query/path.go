package query

import (
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// path leads from a message to values in it.
type path struct {
	text  string
	steps []step
	// many is set when a list is on the way: there may be any number of values.
	many bool
}

// step is one field, or one key of a map.
type step struct {
	field protoreflect.FieldDescriptor
	// key, when it is set, is the key of the map that field is.
	key *string
}

// leaf is the field at the end of the path.
func (p path) leaf() step { return p.steps[len(p.steps)-1] }

// value is the descriptor of what the values are: of the elements of a list, the
// values of a map.
func (p path) value() protoreflect.FieldDescriptor {
	if last := p.leaf(); last.key != nil {
		return last.field.MapValue()
	}
	return p.leaf().field
}

// resolve finds the fields of names in a message type.
func resolve(d protoreflect.MessageDescriptor, names []string) (path, error) {
	p := path{text: strings.Join(names, ".")}
	for i := 0; i < len(names); i++ {
		if d == nil {
			return p, fmt.Errorf("%q has no fields", strings.Join(names[:i], "."))
		}
		f := field(d, names[i])
		if f == nil {
			return p, fmt.Errorf("%q is no field of %s; there are %s", names[i], d.Name(), fieldNames(d))
		}
		s := step{field: f}
		d = f.Message()
		if f.IsMap() {
			if d = f.MapValue().Message(); i+1 < len(names) {
				i++
				s.key = &names[i]
			}
		}
		p.many = p.many || f.IsList()
		p.steps = append(p.steps, s)
		if d != nil && strings.HasPrefix(string(d.FullName()), "google.protobuf.") {
			d = nil // a time or a duration is one value
		}
	}
	return p, nil
}

func field(d protoreflect.MessageDescriptor, name string) protoreflect.FieldDescriptor {
	if f := d.Fields().ByName(protoreflect.Name(name)); f != nil {
		return f
	}
	return d.Fields().ByJSONName(name)
}

func fieldNames(d protoreflect.MessageDescriptor) string {
	var names []string
	for i := range d.Fields().Len() {
		names = append(names, string(d.Fields().Get(i).Name()))
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

// each calls f with each value at the path in m until it returns false, and
// whether it is set; one that is not set is the default. It returns what the last
// call did: true when all calls did, or there was none.
func (p path) each(m protoreflect.Message, f func(v protoreflect.Value, set bool) bool) bool {
	return walk(m, p.steps, f)
}

func walk(m protoreflect.Message, steps []step, f func(protoreflect.Value, bool) bool) bool {
	s, rest := steps[0], steps[1:]
	switch {
	case s.key != nil:
		values := m.Get(s.field).Map()
		key := protoreflect.ValueOfString(*s.key).MapKey()
		if !values.Has(key) {
			return f(s.field.MapValue().Default(), false)
		}
		return f(values.Get(key), true)
	case s.field.IsList():
		list := m.Get(s.field).List()
		for i := range list.Len() {
			if len(rest) == 0 && !f(list.Get(i), true) || len(rest) > 0 && !walk(list.Get(i).Message(), rest, f) {
				return false
			}
		}
		return true
	case len(rest) == 0:
		return f(m.Get(s.field), m.Has(s.field))
	default:
		return walk(m.Get(s.field).Message(), rest, f)
	}
}
