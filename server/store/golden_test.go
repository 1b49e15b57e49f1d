package store

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	storev1 "github.com/swanherd/swanherd/proto/swanherd/store/v1"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

var update = flag.Bool("update", false, "add what is new to the golden files of the present schema")

// storedKind is what is stored below one prefix.
type storedKind struct {
	layout layout
	empty  proto.Message
}

// storedKinds are all that there are, apart from the schema's own.
func storedKinds(s *Store) []storedKind {
	return []storedKind{
		kindOf(s.Networks), kindOf(s.Profiles), kindOf(s.Segments), kindOf(s.Sites), kindOf(s.Meshes), kindOf(s.Gateways), kindOf(s.Assertions), kindOf(s.PreSharedKeys), kindOf(s.Edges),
		kindOf(s.EdgeStatuses), kindOf(s.EdgeIdentities), kindOf(s.EnrollmentTokens), kindOf(s.APITokens), kindOf(s.LoginLinks),
		kindOf(s.Authorities), kindOf(s.Revocations), kindOf(s.Replicas), kindOf(s.EnrollmentRequests), kindOf(s.Devices),
		kindOf(s.DeviceSerials), kindOf(s.TokenUses), kindOf(s.ExpiryChecks), kindOf(s.RoleBindings), kindOf(s.Users), kindOf(s.DataKeys),
		kindOf(s.ChangeSets), kindOf(s.Rollouts), kindOf(s.RolloutPlans), kindOf(s.Jobs), kindOf(s.JobOutputs),
		kindOf(s.AlertRules), kindOf(s.Alerts), kindOf(s.AlertDefaults), kindOf(s.WebhookSinks), kindOf(s.WebhookDeliveries),
		{eventLayout, &swanherdv1.Event{}},
		{auditLayout, &swanherdv1.Event{}},
		{sealLayout, &storev1.AuditSeal{}},
		{revisionLayout, &storev1.TopologyRevision{}},
		{newLayout("inside_revisions", "networks/*/revisions/*"), &storev1.RevisionContent{}},
		{requestLayout, &storev1.AnsweredRequest{}},
		{newLayout("meta", "*"), &storev1.Epoch{}},
	}
}

func kindOf[T proto.Message](c *Collection[T]) storedKind { return storedKind{c.layout, c.empty} }

func goldenFile(what string) string {
	return filepath.Join("testdata", fmt.Sprintf("schema%d.%s", len(migrations)+1, what))
}

const goldenAdvice = `What is stored may only grow fields. Anything else needs a migration in schema.go, which
makes another version and golden files of that; the old ones stay, for the migration's test.
If it is only a new field: go test ./server/store -run Golden -update, and review the diff.`

// What is stored has the form that the golden file of this version of the schema says: a
// field that changed or went, or a key that moved, is in stores that are out there.
func TestGoldenForm(t *testing.T) {
	s := openTemp(t)
	kinds := storedKinds(s)
	cached := 0
	for _, c := range s.cached {
		if slices.ContainsFunc(kinds, func(k storedKind) bool { return k.layout.prefix() == c.prefix() }) {
			cached++
		}
	}
	if cached != len(s.cached) {
		t.Fatalf("%d of %d collections are in storedKinds; add the new one", cached, len(s.cached))
	}
	have := map[string]bool{}
	for _, k := range kinds {
		have[fmt.Sprintf("%s%s %s", k.layout.prefix(), strings.Join(k.layout.form, "/"), k.empty.ProtoReflect().Descriptor().FullName())] = true
		describe(have, k.empty.ProtoReflect().Descriptor())
	}
	golden := goldenLines(t, goldenFile("form"))
	for line := range golden {
		if !have[line] {
			t.Errorf("not as it was any more: %s\n%s", line, goldenAdvice)
		}
	}
	for line := range have {
		if !golden[line] && !*update {
			t.Errorf("not in %s: %s\n%s", goldenFile("form"), line, goldenAdvice)
		}
	}
	if *update && !t.Failed() {
		lines := slices.Sorted(maps.Keys(have))
		if err := os.WriteFile(goldenFile("form"), []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func goldenLines(t *testing.T, file string) map[string]bool {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil && !*update {
		t.Fatal(err)
	}
	out := map[string]bool{}
	for line := range strings.Lines(string(b)) {
		out[strings.TrimSuffix(line, "\n")] = true
	}
	return out
}

// describe adds the form of a message and of all that are in it.
func describe(into map[string]bool, d protoreflect.MessageDescriptor) {
	for i := range d.Fields().Len() {
		f := d.Fields().Get(i)
		kind := f.Kind().String()
		switch {
		case f.Message() != nil:
			kind = string(f.Message().FullName())
		case f.Enum() != nil:
			kind = string(f.Enum().FullName())
			for j := range f.Enum().Values().Len() {
				v := f.Enum().Values().Get(j)
				into[fmt.Sprintf("%s %s = %d", kind, v.Name(), v.Number())] = true
			}
		}
		line := fmt.Sprintf("%s %s %s = %d", f.FullName(), f.Cardinality(), kind, f.Number())
		if into[line] {
			return // seen, as is the rest of the message
		}
		into[line] = true
		if f.Message() != nil {
			describe(into, f.Message())
		}
	}
}

// goldenRecord is one key of a golden store.
type goldenRecord struct {
	Key   string          `json:"key"`
	Value string          `json:"value"` // base64
	Means json.RawMessage `json:"means"` // protobuf's JSON
}

// A store that the program wrote as it was when this version of the schema began opens
// and says what it said then.
func TestGoldenStore(t *testing.T) {
	dir := t.TempDir()
	e, err := startEmbedded(t.Context(), dir, nil, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	golden := goldenStore(t)
	for _, r := range golden {
		value, err := base64.StdEncoding.DecodeString(r.Value)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := e.client().Put(t.Context(), r.Key, string(value)); err != nil {
			t.Fatal(err)
		}
	}
	e.close()
	s := open(t, dir)
	defer s.Close()
	if len(golden) == 0 {
		t.Fatal("the golden store is empty")
	}
	for _, r := range golden {
		k := kindOfKey(t, storedKinds(s), r.Key)
		resp, err := s.client.Get(t.Context(), r.Key)
		if err != nil || len(resp.Kvs) != 1 {
			t.Fatalf("%s: %v, %v", r.Key, resp, err)
		}
		have, want := k.empty.ProtoReflect().New().Interface(), k.empty.ProtoReflect().New().Interface()
		if err := proto.Unmarshal(resp.Kvs[0].Value, have); err != nil {
			t.Errorf("%s: %v", r.Key, err)
		}
		if err := protojson.Unmarshal(r.Means, want); err != nil {
			t.Errorf("%s: %v", r.Key, err)
		}
		if !proto.Equal(have, want) || len(have.ProtoReflect().GetUnknown()) > 0 {
			t.Errorf("%s says\n%v, and said\n%v\n%s", r.Key, have, want, goldenAdvice)
		}
	}
	if got := s.Snapshot().Sites.Len(); got != 1 {
		t.Errorf("the snapshot has %d sites", got)
	}
}

func kindOfKey(t *testing.T, kinds []storedKind, key string) storedKind {
	t.Helper()
	for _, k := range kinds {
		if _, err := k.layout.name(key); err == nil {
			return k
		}
	}
	t.Fatalf("nothing is stored below %s any more\n%s", key, goldenAdvice)
	return storedKind{}
}

// goldenStore is the golden store of this version. With -update it gets a record, in which
// each field is set, of each kind that it has none of; those that it has stay as they are.
func goldenStore(t *testing.T) []goldenRecord {
	t.Helper()
	file := goldenFile("store.json")
	var out []goldenRecord
	b, err := os.ReadFile(file)
	if err == nil {
		err = json.NewDecoder(bytes.NewReader(b)).Decode(&out)
	}
	if err != nil && (!*update || !os.IsNotExist(err)) {
		t.Fatal(err)
	}
	s := open(t, t.TempDir())
	defer s.Close()
	for _, k := range storedKinds(s) {
		if slices.ContainsFunc(out, func(r goldenRecord) bool { return strings.HasPrefix(r.Key, k.layout.prefix()) }) {
			continue
		}
		if !*update {
			t.Errorf("nothing in %s is below %s\n%s", file, k.layout.prefix(), goldenAdvice)
			continue
		}
		out = append(out, k.record(t))
	}
	if *update {
		if b, err = json.MarshalIndent(out, "", "  "); err == nil {
			err = os.WriteFile(file, append(b, '\n'), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// record is one of the kind in which each field is set.
func (k storedKind) record(t *testing.T) goldenRecord {
	t.Helper()
	m := k.empty.ProtoReflect().New()
	fill(m, 0)
	value, err := proto.MarshalOptions{Deterministic: true}.Marshal(m.Interface())
	if err != nil {
		t.Fatal(err)
	}
	means, err := protojson.Marshal(m.Interface())
	if err != nil {
		t.Fatal(err)
	}
	varying := slices.DeleteFunc(slices.Clone(k.layout.form), func(f string) bool { return f[0] != '*' })
	for i := range varying {
		varying[i] = fmt.Sprintf("golden%d", i)
	}
	key := k.layout.prefix() + strings.Join(varying, "/")
	if k.layout.dir == "meta" {
		key = epochKey
	}
	return goldenRecord{key, base64.StdEncoding.EncodeToString(value), means}
}

// maxFill bounds how deep messages are in one another in a golden store.
const maxFill = 5

// fill sets each field of a message to something that is not its default.
func fill(m protoreflect.Message, depth int) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		switch {
		case f.Message() != nil && depth == maxFill:
		case f.IsMap():
			value := m.Mutable(f).Map().NewValue()
			if f.MapValue().Message() != nil {
				fill(value.Message(), depth+1)
			} else {
				value = filled(f.MapValue())
			}
			m.Mutable(f).Map().Set(filled(f.MapKey()).MapKey(), value)
		case f.IsList() && f.Message() != nil:
			fill(m.Mutable(f).List().AppendMutable().Message(), depth+1)
		case f.IsList():
			m.Mutable(f).List().Append(filled(f))
		case f.Message() != nil:
			fill(m.Mutable(f).Message(), depth+1)
		default:
			m.Set(f, filled(f))
		}
	}
}

func filled(f protoreflect.FieldDescriptor) protoreflect.Value {
	n := int(f.Number())
	switch f.Kind() {
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(string(f.Name()))
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes([]byte(f.Name()))
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(true)
	case protoreflect.EnumKind:
		return protoreflect.ValueOfEnum(f.Enum().Values().Get(f.Enum().Values().Len() - 1).Number())
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind:
		return protoreflect.ValueOfInt32(int32(n))
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		return protoreflect.ValueOfUint32(uint32(n))
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		return protoreflect.ValueOfUint64(uint64(n))
	case protoreflect.FloatKind:
		return protoreflect.ValueOfFloat32(float32(n) / 2)
	case protoreflect.DoubleKind:
		return protoreflect.ValueOfFloat64(float64(n) / 2)
	default:
		return protoreflect.ValueOfInt64(int64(n))
	}
}
