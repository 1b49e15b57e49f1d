package query

import (
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

func at(second int64) *timestamppb.Timestamp {
	return timestamppb.New(time.Date(2026, 1, 2, 15, 4, 5, 0, time.UTC).Add(time.Duration(second) * time.Second))
}

var edges = []*swanherdv1.Edge{
	{Name: "networks/n/edges/a", Site: "networks/n/sites/x", CreateTime: at(0), Uplinks: []*swanherdv1.Uplink{
		{Name: "wan1", Cost: 10, TransportClass: swanherdv1.TransportClass_TRANSPORT_CLASS_LTE, Addresses: []string{"192.0.2.1", "2001:db8::1"}},
		{Name: "wan2", Cost: 20},
	}, Status: &swanherdv1.EdgeStatus{Connected: true, AppliedRevision: 7, IntentState: swanherdv1.IntentState_INTENT_STATE_CONFIRMED}},
	{Name: "networks/n/edges/b", DisplayName: "Bee \"two\"", Disabled: true, CreateTime: at(10), Status: &swanherdv1.EdgeStatus{AppliedRevision: 9}},
	{Name: "networks/n/edges/c", DisplayName: "cee", CreateTime: at(20)},
}

var sites = []*swanherdv1.Site{
	{Name: "a", Labels: map[string]string{"region": "emea", "tier": "1"}, Location: &swanherdv1.Location{Latitude: -10.5}, Prefixes: []string{"10.1.0.0/16"}},
	{Name: "b", Labels: map[string]string{"region": "amer"}, Prefixes: []string{"10.2.0.0/16", "10.3.0.0/16"}},
	{Name: "c"},
}

func matching[T proto.Message](t *testing.T, text string, all []T) string {
	t.Helper()
	f, err := ParseFilter(text, all[0].ProtoReflect().Descriptor())
	if err != nil {
		t.Errorf("%s: %v", text, err)
		return ""
	}
	out := ""
	for _, m := range all {
		if f.Matches(m.ProtoReflect()) {
			name := m.ProtoReflect().Get(m.ProtoReflect().Descriptor().Fields().ByName("name")).String()
			out += name[len(name)-1:]
		}
	}
	return out
}

func TestFilter(t *testing.T) {
	for text, want := range map[string]string{
		"": "abc", "   ": "abc",
		`name = "networks/n/edges/b"`:                                "b",
		`name = "*/b"`:                                               "b",
		`name != "*/b"`:                                              "ac",
		`display_name = "Bee \"two\""`:                               "b",
		`displayName:BEE`:                                            "b",
		`display_name:"e*TWO"`:                                       "b",
		`display_name:*`:                                             "bc",
		`-display_name:*`:                                            "a",
		`disabled = true`:                                            "b",
		`NOT disabled = true`:                                        "ac",
		`disabled = false AND status:*`:                              "a",
		`status.connected = true`:                                    "a",
		`status.applied_revision > 6`:                                "ab",
		`status.applied_revision >= 9`:                               "b",
		`status.applied_revision < 8`:                                "ac",
		`status.intent_state = CONFIRMED`:                            "a",
		`status.intent_state != CONFIRMED`:                           "bc",
		`status.intent_state:CONFIRMED`:                              "a",
		`create_time > "2026-01-02T15:04:10Z"`:                       "bc",
		`create_time <= timestamp("2026-01-02T15:04:15Z")`:           "ab",
		`uplinks.name:wan2`:                                          "a",
		`uplinks.transport_class:LTE`:                                "a",
		`uplinks.addresses:"192.0.2.1"`:                              "a",
		`uplinks.addresses:"2001:*"`:                                 "a",
		`uplinks:*`:                                                  "a",
		`uplinks.cost:20`:                                            "a",
		`uplinks.cost:5`:                                             "",
		`disabled = true OR status.connected = true`:                 "ab",
		`disabled = true OR status.connected = true AND name = "*a"`: "a", // OR binds tighter (AIP-160)
		`(disabled = true) OR (status.connected = true AND name = "*b")`: "b",
		`name = "*b" disabled = true`:                                    "b",
		`NOT (disabled = true OR status.connected = true)`:               "c",
		`status.last_seen_time > "2026-01-02T15:04:10Z"`:                 "",
		`status.last_seen_time != "2026-01-02T15:04:10Z"`:                "abc",
	} {
		if got := matching(t, text, edges); got != want {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
	}
	for text, want := range map[string]string{
		`labels.region = emea`:         "a",
		`labels.region = "e*"`:         "a",
		`labels.region != emea`:        "bc",
		`labels:tier`:                  "a",
		`labels.tier:*`:                "a",
		`labels.tier = 1`:              "a",
		`labels:*`:                     "ab",
		`labels.region > "b"`:          "a",
		`prefixes:"10.3.0.0/16"`:       "b",
		`prefixes:"10.*"`:              "ab",
		`location.latitude < 0`:        "a",
		`location.latitude = -10.5`:    "a",
		`location:*`:                   "a",
		`labels."region" = "amer"`:     "b",
		`NOT labels.region = "nobody"`: "abc",
	} {
		if got := matching(t, text, sites); got != want {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
	}
	profiles := []*swanherdv1.Profile{{Name: "a", DpdDelay: durationpb.New(90 * time.Second)}, {Name: "b", DpdDelay: durationpb.New(time.Second)}, {Name: "c"}}
	if got := matching(t, `dpd_delay >= "1m30s"`, profiles); got != "a" {
		t.Errorf("duration: %q", got)
	}
}

func TestBadFilter(t *testing.T) {
	for text, want := range map[string]string{
		`nothing = 1`:                       `"nothing" is no field of Edge; there are create_time`,
		`name.x = 1`:                        `"name" has no fields`,
		`status.nothing = 1`:                `no field of EdgeStatus`,
		`disabled = maybe`:                  `disabled: "maybe" is not true or false`,
		`status.intent_state = DONE`:        `is not one of UNSPECIFIED, PENDING`,
		`status.applied_revision = many`:    `not a whole number`,
		`create_time > yesterday`:           `is not a time such as`,
		`uplinks.cost = 5`:                  `use : to ask for one of them`,
		`status = 1`:                        `is no single value`,
		`berlin`:                            `"berlin" is compared with nothing`,
		`"berlin"`:                          `compared with nothing`,
		`1 = 1`:                             `is no field`,
		`f(name)`:                           `no function "f"`,
		`name = (a OR b)`:                   `no value`,
		`name =`:                            `is no filter`,
		`((`:                                `is no filter`,
		`name = "`:                          `is no filter`,
		strings.Repeat("(", 2000):           `is no filter`,
		strings.Repeat("NOT ", 2000):        ``,
		strings.Repeat("f(", 2000):          ``,
		strings.Repeat("a.", 2000) + " = 1": ``,
	} {
		_, err := ParseFilter(text, edges[0].ProtoReflect().Descriptor())
		if err == nil || !strings.Contains(err.Error(), want) || len(err.Error()) > 500 {
			t.Errorf("%.60s: %v, want %q", text, err, want)
		}
	}
}

func TestOrder(t *testing.T) {
	for text, want := range map[string]string{
		"": "abc", "create_time desc": "cba", "disabled desc, name desc": "bca", "status.applied_revision desc": "bac", "status.intent_state desc,createTime desc": "acb",
	} {
		o, err := ParseOrder(text, edges[0].ProtoReflect().Descriptor())
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if o.Empty() != (text == "") {
			t.Errorf("%q is empty: %v", text, o.Empty())
		}
		sorted := slices.Clone(edges)
		slices.SortStableFunc(sorted, func(a, b *swanherdv1.Edge) int { return o.Compare(a.ProtoReflect(), b.ProtoReflect()) })
		got := ""
		for _, e := range sorted {
			got += e.GetName()[len(e.GetName())-1:]
		}
		if got != want {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
	}
	o, err := ParseOrder("labels.region desc", sites[0].ProtoReflect().Descriptor())
	if err != nil || o.Compare(sites[0].ProtoReflect(), sites[1].ProtoReflect()) >= 0 || o.Compare(sites[2].ProtoReflect(), sites[1].ProtoReflect()) <= 0 {
		t.Errorf("by a label: %v", err)
	}
	for _, text := range []string{"nothing", "uplinks", "uplinks.cost", "status", "name descending", "name desc desc", ",", "name,,site", "name;site"} {
		if _, err := ParseOrder(text, edges[0].ProtoReflect().Descriptor()); err == nil {
			t.Errorf("order %q is accepted", text)
		}
	}
}

// Whatever is parsed can be applied, and nothing takes longer than its length says.
func FuzzFilter(f *testing.F) {
	for _, text := range []string{`a = "b*" AND -c:d`, `status.applied_revision >= 1 OR uplinks.name:wan1`, `create_time > "2026-01-02T15:04:05Z"`, `NOT (disabled = true)`, `name:"é\""`, `f(g(h(`} {
		f.Add(text)
	}
	var d protoreflect.MessageDescriptor = edges[0].ProtoReflect().Descriptor()
	f.Fuzz(func(_ *testing.T, text string) {
		if len(text) > 2048 {
			return
		}
		if filter, err := ParseFilter(text, d); err == nil {
			for _, e := range edges {
				filter.Matches(e.ProtoReflect())
			}
		}
		_, _ = ParseOrder(text, d) // must not panic
	})
}
