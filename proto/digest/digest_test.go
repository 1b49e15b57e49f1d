package digest

import (
	"bytes"
	"encoding/hex"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/durationpb"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

func tunnel() *swanherdv1.TunnelIntent {
	return &swanherdv1.TunnelIntent{
		Name:            "networks/demo/tunnels/berlin-oslo",
		PeerEdge:        "networks/demo/edges/oslo",
		Role:            swanherdv1.TunnelRole_TUNNEL_ROLE_INITIATOR,
		RemoteEndpoints: []*swanherdv1.PeerEndpoint{{Address: "192.0.2.2", Port: 4500}},
		IkeRekeyTime:    durationpb.New(4 * 60 * 60 * 1e9),
		Children: []*swanherdv1.ChildIntent{{
			Name: "net", LocalTs: []string{"10.1.0.0/24"}, RemoteTs: []string{"10.2.0.0/24", "2001:db8:2::/48"},
		}},
	}
}

// The encoding is part of the session protocol: a change of these values makes
// every edge of a fleet download its intent again, so it must be deliberate.
func TestVersionIsStable(t *testing.T) {
	const want = "03cc087eaa09fc8a82393c3a03fbf87f"
	if got := hex.EncodeToString(Of(tunnel())); got != want {
		t.Errorf("Of(tunnel) = %s, want %s", got, want)
	}
}

func TestEveryFieldCounts(t *testing.T) {
	base := Of(tunnel())
	for name, change := range map[string]func(*swanherdv1.TunnelIntent){
		"name":      func(i *swanherdv1.TunnelIntent) { i.Name += "x" },
		"role":      func(i *swanherdv1.TunnelIntent) { i.Role = swanherdv1.TunnelRole_TUNNEL_ROLE_RESPONDER },
		"port":      func(i *swanherdv1.TunnelIntent) { i.RemoteEndpoints[0].Port = 500 },
		"duration":  func(i *swanherdv1.TunnelIntent) { i.IkeRekeyTime.Seconds++ },
		"list item": func(i *swanherdv1.TunnelIntent) { i.Children[0].RemoteTs[1] = "2001:db8:3::/48" },
		"list split": func(i *swanherdv1.TunnelIntent) {
			i.Children[0].RemoteTs = []string{"10.2.0.0/242001:db8:2::/48"}
		},
		"bool": func(i *swanherdv1.TunnelIntent) { i.ForceUdpEncapsulation = true },
	} {
		i := tunnel()
		change(i)
		if bytes.Equal(Of(i), base) {
			t.Errorf("%s: a different intent has the same version", name)
		}
	}
}

// Both ways to encode give the same octets, for every message there is, whatever is set.
func TestStructsAreEncodedAsReflected(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	fast := 0
	protoregistry.GlobalTypes.RangeMessages(func(mt protoreflect.MessageType) bool {
		if !strings.HasPrefix(string(mt.Descriptor().FullName()), "swanherd.v1.") {
			return true
		}
		for range 50 {
			m := mt.New()
			populate(random, m, 3)
			got, want := appendEncoding(nil, m.Interface()), appendReflected(nil, m)
			if !bytes.Equal(got, want) {
				t.Errorf("%s: %x, reflected %x", prototext.Format(m.Interface()), got, want)
			}
		}
		if structFields(reflect.TypeOf(mt.New().Interface())) != nil {
			fast++
		}
		return true
	})
	for _, m := range []proto.Message{&swanherdv1.TunnelIntent{}, &swanherdv1.ChildIntent{}, &swanherdv1.Authentication{}, &swanherdv1.EdgeSettings{}} {
		if structFields(reflect.TypeOf(m)) == nil {
			t.Errorf("%T is encoded by reflection", m)
		}
	}
	if fast == 0 {
		t.Error("no message was encoded by its struct")
	}
}

// populate sets about half of the fields of m, to a zero value now and then, to the given
// depth.
func populate(random *rand.Rand, m protoreflect.Message, depth int) {
	for _, d := range sortedFields(m.Descriptor()) {
		if random.IntN(2) == 0 || depth == 0 && d.Message() != nil {
			continue
		}
		switch {
		case d.IsMap():
			entries := m.Mutable(d).Map()
			for range random.IntN(4) {
				entries.Set(randomValue(random, d.MapKey(), protoreflect.Value{}, 0).MapKey(), randomValue(random, d.MapValue(), entries.NewValue(), depth-1))
			}
		case d.IsList():
			list := m.Mutable(d).List()
			for range random.IntN(4) {
				list.Append(randomValue(random, d, list.NewElement(), depth-1))
			}
		default:
			m.Set(d, randomValue(random, d, m.NewField(d), depth-1))
		}
	}
}

// randomValue is one for the field; empty is its empty value, for messages.
func randomValue(random *rand.Rand, d protoreflect.FieldDescriptor, empty protoreflect.Value, depth int) protoreflect.Value {
	n := random.Int64() >> random.IntN(64) // small ones, 0 and negative ones too
	if random.IntN(2) == 0 {
		n = -n
	}
	switch d.Kind() {
	case protoreflect.MessageKind:
		populate(random, empty.Message(), depth)
		return empty
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(strings.Repeat("ä", random.IntN(100)))
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes(make([]byte, random.IntN(200)))
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(n&1 == 0)
	case protoreflect.EnumKind:
		return protoreflect.ValueOfEnum(protoreflect.EnumNumber(random.IntN(4)))
	case protoreflect.DoubleKind:
		return protoreflect.ValueOfFloat64(float64(n))
	case protoreflect.FloatKind:
		return protoreflect.ValueOfFloat32(float32(n))
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		return protoreflect.ValueOfUint32(uint32(n))
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		return protoreflect.ValueOfUint64(uint64(n))
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind:
		return protoreflect.ValueOfInt32(int32(n))
	default:
		return protoreflect.ValueOfInt64(n)
	}
}

func BenchmarkOf(b *testing.B) {
	m := tunnel()
	b.ReportAllocs()
	for b.Loop() {
		Of(m)
	}
}

func TestMapOrder(t *testing.T) {
	for range 50 {
		a := Of(&swanherdv1.Site{Labels: map[string]string{"a": "1", "b": "2", "c": "3"}})
		b := Of(&swanherdv1.Site{Labels: map[string]string{"c": "3", "b": "2", "a": "1"}})
		if !bytes.Equal(a, b) {
			t.Fatal("the version of a message depends on the order of a map")
		}
	}
}
