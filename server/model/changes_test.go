package model

import (
	"fmt"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	storev1 "github.com/swanherd/swanherd/proto/swanherd/store/v1"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

func told(changes []*swanherdv1.FieldChange) string {
	var out []string
	for _, c := range changes {
		out = append(out, fmt.Sprintf("%s: %s -> %s", c.GetPath(), c.GetOldValue(), c.GetNewValue()))
	}
	return strings.Join(out, "; ")
}

func TestFieldChanges(t *testing.T) {
	site := func(change func(*swanherdv1.Site)) *swanherdv1.Site {
		s := &swanherdv1.Site{
			Name: "networks/demo/sites/berlin", Uid: "u", Etag: "1", DisplayName: "Berlin",
			Labels: map[string]string{"region": "emea"}, Prefixes: []string{"10.1.0.0/16"}, Location: &swanherdv1.Location{Latitude: 52},
		}
		if change != nil {
			change(s)
		}
		return s
	}
	for what, c := range map[string]struct {
		from, to proto.Message
		want     string
	}{
		"nothing":        {site(nil), site(nil), ""},
		"what is ours":   {site(nil), site(func(s *swanherdv1.Site) { s.Uid, s.Etag = "v", "2" }), ""},
		"a text":         {site(nil), site(func(s *swanherdv1.Site) { s.DisplayName = "B\n" }), `display_name: "Berlin" -> "B\n"`},
		"a text cleared": {site(nil), site(func(s *swanherdv1.Site) { s.DisplayName = "" }), `display_name: "Berlin" -> `},
		"labels": {
			site(nil), site(func(s *swanherdv1.Site) { s.Labels = map[string]string{"tier": "1"} }),
			`labels.region: "emea" -> ; labels.tier:  -> "1"`,
		},
		"a list":  {site(nil), site(func(s *swanherdv1.Site) { s.Prefixes = append(s.Prefixes, "10.2.0.0/16") }), `prefixes: ["10.1.0.0/16"] -> ["10.1.0.0/16", "10.2.0.0/16"]`},
		"inside":  {site(nil), site(func(s *swanherdv1.Site) { s.Location.Longitude = 13.5 }), "location.longitude:  -> 13.5"},
		"is made": {nil, &swanherdv1.Site{Name: "n", DisplayName: "N", Location: &swanherdv1.Location{Latitude: 1}}, `display_name:  -> "N"; location.latitude:  -> 1`},
		"is gone": {&swanherdv1.Site{Name: "n", DisplayName: "N"}, nil, `display_name: "N" -> `},
		"messages in a list": {
			&storev1.EdgeStatus{Uplinks: []*swanherdv1.Uplink{{Name: "wan1", Cost: 1}, {Name: "wan2"}}},
			&storev1.EdgeStatus{Uplinks: []*swanherdv1.Uplink{{Name: "wan1", Cost: 2}}},
			`uplinks[0].cost: 1 -> 2; uplinks[1].name: "wan2" -> `,
		},
		"secrets": {
			&storev1.ApiToken{Token: &swanherdv1.ApiToken{Secret: "swa_one", Role: 1}, SecretSha256: []byte("one")},
			&storev1.ApiToken{Token: &swanherdv1.ApiToken{Secret: "swa_two", Role: 2}, SecretSha256: []byte("two")},
			"secret_sha256: (secret) -> (secret); token.role: ROLE_VIEWER -> ROLE_OPERATOR; token.secret: (secret) -> (secret)",
		},
	} {
		changes, more := FieldChanges(c.from, c.to)
		if got := told(changes); got != c.want || more != 0 {
			t.Errorf("%s: %s and %d more, want %s", what, got, more, c.want)
		}
	}
}

// However much changes, what is told of it is little.
func TestFieldChangesAreBounded(t *testing.T) {
	s := &swanherdv1.Site{DisplayName: strings.Repeat("ü", 5000), Labels: map[string]string{}}
	for i := range 500 {
		s.Labels[fmt.Sprintf("k%03d", i)] = strings.Repeat("x", 5000)
		s.Prefixes = append(s.Prefixes, strings.Repeat("y", 5000))
	}
	changes, more := FieldChanges(nil, s)
	event := &swanherdv1.Event{Changes: changes}
	if len(changes) != maxChanges || more != 502-maxChanges || proto.Size(event) > maxChanges*(maxChangeValue+64) {
		t.Errorf("%d changes of %d octets, and %d more", len(changes), proto.Size(event), more)
	}
	if b, err := proto.Marshal(event); err != nil { // as of a text that was cut within a rune
		t.Errorf("%v: %q", err, b)
	}
}
