package api

import (
	"fmt"
	"strings"

	"buf.build/go/protovalidate"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/swanherd/swanherd/server/access"
)

// masked returns old with the fields of want that the mask names; without a
// mask, with those that are set in want; with `*`, with all of them (AIP-134,
// AIP-161).
func masked[T proto.Message](old, want T, mask *fieldmaskpb.FieldMask) (T, error) {
	out := proto.Clone(old).(T)
	paths := mask.GetPaths()
	if len(paths) == 1 && paths[0] == "*" {
		paths = writablePaths(want.ProtoReflect(), false)
	} else if len(paths) == 0 {
		paths = writablePaths(want.ProtoReflect(), true)
	}
	var violations []access.Violation
	for i, path := range paths {
		if err := setPath(out.ProtoReflect(), want.ProtoReflect(), strings.Split(path, ".")); err != nil {
			violations = append(violations, access.Violation{Field: fmt.Sprintf("update_mask.paths[%d]", i), Message: err.Error()})
		}
	}
	if len(violations) > 0 {
		return out, access.InvalidAll(violations)
	}
	return out, nil
}

// mistakes are what is wrong with a resource by its rules, as fields of word, which it is in
// the request.
func mistakes(valid protovalidate.Validator, word string, m proto.Message) []access.Violation {
	wrong := access.Violations(valid.Validate(m))
	for i := range wrong {
		wrong[i].Field = word + "." + wrong[i].Field
	}
	return wrong
}

func writablePaths(m protoreflect.Message, set bool) []string {
	var out []string
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		// A member of a oneof that is not set would clear the one that is.
		if writable(f) && (m.Has(f) || !set && f.ContainingOneof() == nil) {
			out = append(out, string(f.Name()))
		}
	}
	return out
}

// setPath copies one path from src to dst, clearing it where src has nothing.
// What clients cannot set stays as it is in dst.
func setPath(dst, src protoreflect.Message, path []string) error {
	f := dst.Descriptor().Fields().ByName(protoreflect.Name(path[0]))
	if f == nil {
		return fmt.Errorf("%q is not a field of %s", path[0], dst.Descriptor().Name())
	}
	if !writable(f) {
		return nil // clients send back what they read (AIP-203)
	}
	if len(path) > 1 {
		if f.Kind() != protoreflect.MessageKind || f.IsList() || f.IsMap() {
			return fmt.Errorf("%q has no fields; name it as a whole", path[0])
		}
		return setPath(dst.Mutable(f).Message(), src.Get(f).Message(), path[1:])
	}
	if src.Has(f) {
		dst.Set(f, proto.Clone(src.Interface()).ProtoReflect().Get(f))
	} else {
		dst.Clear(f)
	}
	return nil
}
