package edge

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/swanherd/swanherd/edge/reconcile"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

const goodIntent = `settings:
  localPrefixes: [10.1.0.0/24]
tunnels:
  - name: a--b
    role: TUNNEL_ROLE_INITIATOR
    remote_endpoints: [{address: 192.0.2.2}]
    authentication:
      localId: a.example
      remoteId: b.example
      psk: {file: secrets/psk}
    ikeProposals:
      - aes256gcm16-prfsha384-x25519
      - rot13-x25519
    children:
      - name: net
        localTs: [10.1.0.0/24]
        remoteTs: [10.2.0.0/24]
`

func writeIntent(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "edge.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestReadIntent(t *testing.T) {
	file := writeIntent(t, goodIntent)
	i, _, err := ReadIntent(file)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := i.GetTunnels()[0].GetAuthentication().GetPsk().GetFile(), filepath.Join(filepath.Dir(file), "secrets/psk"); got != want {
		t.Errorf("psk file = %s, want %s", got, want)
	}
	if n := len(resources(i)); n != 2 {
		t.Errorf("%d resources, want settings and a tunnel", n)
	}
}

// Each mistake is told with the line on which it is.
func TestReadIntentErrors(t *testing.T) {
	for name, tc := range map[string]struct {
		from, to, want string
	}{
		"unknown field":  {"role:", "rolle:", "edge.yaml:5"},
		"bad enum":       {"TUNNEL_ROLE_INITIATOR", "BOSS", "edge.yaml:5"},
		"bad address":    {"192.0.2.2", "192.0.2.256", "edge.yaml:6"},
		"bad prefix":     {"[10.1.0.0/24]", "[10.1.0.0/240]", "edge.yaml:2"},
		"not YAML":       {"tunnels:", "tunnels: [", "edge.yaml:"},
		"missing method": {"      psk: {file: secrets/psk}\n", "", "authentication"},
		"empty":          {goodIntent, "\n", "tunnels: []"},
	} {
		_, _, err := ReadIntent(writeIntent(t, strings.Replace(goodIntent, tc.from, tc.to, 1)))
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", name, err, tc.want)
		}
	}
}

func TestLocateErrors(t *testing.T) {
	for _, tc := range []struct{ resource, field, want string }{
		{"a--b", "ike_proposals[1]", "f.yaml:13:9: a--b: ike_proposals[1]: wrong"},
		{"a--b", "children[0].remote_ts[0]", "f.yaml:17:20: "},
		{"a--b", "children[0].rekey_time", "f.yaml:15:9: "}, // not there: the child
		{"settings", "local_prefixes[0]", "f.yaml:2:19: "},
		{"", "", "f.yaml:1:1: wrong"},
	} {
		err := locateErrors("f.yaml", []byte(goodIntent), reconcile.Errors{{Resource: tc.resource, FieldPath: tc.field, Message: "wrong"}})
		if !strings.HasPrefix(err.Error(), tc.want) {
			t.Errorf("%s %s: %v, want %s", tc.resource, tc.field, err, tc.want)
		}
	}
}

func TestParseUplink(t *testing.T) {
	got, err := ParseUplink("name=wan1,interface=eth0,class=lte,cost=10,metered=true")
	want := &swanherdv1.Uplink{Name: "wan1", Interface: "eth0", TransportClass: swanherdv1.TransportClass_TRANSPORT_CLASS_LTE, Cost: 10, Metered: true}
	if err != nil || !proto.Equal(got, want) {
		t.Errorf("ParseUplink = %v, %v", got, err)
	}
	for _, bad := range []string{"", "wan1", "name=wan1", "name=w,interface=e,class=pigeon", "name=w,interface=e,colour=red", "name=w,interface=e,cost=x", "name=w,interface=e,cost=10x", "name=w,interface=e,cost=4294967296", "name=w,interface=e,metered=yess"} {
		if _, err := ParseUplink(bad); err == nil || !strings.Contains(err.Error(), "the form is") {
			t.Errorf("ParseUplink(%q) = %v, want the form", bad, err)
		}
	}
}

// Uplinks that cannot be told apart, or that the controller would refuse, are refused.
func TestUplinksAreRefused(t *testing.T) {
	for want, texts := range map[string][]string{
		"":                          {"name=wan1,interface=eth0", "name=lte,interface=wwan0"},
		`uplink "WAN"`:              {"name=WAN,interface=eth0"},
		"two uplinks have the name": {"name=wan1,interface=eth0", "name=wan1,interface=eth1"},
		"the same interface eth0":   {"name=wan1,interface=eth0", "name=wan2,interface=eth0"},
		"17 uplinks":                slices.Repeat([]string{"name=wan1,interface=eth0"}, 17),
	} {
		cfg := Config{StateDir: "/state", Interface: "swan0", Logger: slog.New(slog.DiscardHandler)}
		for _, text := range texts {
			u, err := ParseUplink(text)
			if err != nil {
				t.Fatal(err)
			}
			cfg.Uplinks = append(cfg.Uplinks, u)
		}
		if err := cfg.validate(); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v, want %q", texts, err, want)
		}
	}
}

func TestChooseDataPlane(t *testing.T) {
	works, lacks := func(bool) error { return nil }, func(bool) error { return errors.New("this kernel has no IPsec") }
	noTCP := func(tcp bool) error {
		if tcp {
			return errors.New("this kernel is built without ESP in TCP")
		}
		return nil
	}
	for _, tt := range []struct {
		wanted DataPlane
		tcp    uint16
		probe  func(tcp bool) error
		want   DataPlane
		says   string
	}{
		{DataPlaneAuto, 0, works, DataPlaneKernel, "has what is needed"},
		{DataPlaneAuto, 0, lacks, DataPlaneUserspace, "this kernel has no IPsec"},
		{DataPlaneAuto, 4500, works, DataPlaneUserspace, "--tcp-port 0"},
		{DataPlaneUserspace, 0, works, DataPlaneUserspace, "as configured"},
		{DataPlaneKernel, 0, works, DataPlaneKernel, "as configured"},
		{DataPlaneKernel, 0, lacks, "", "this kernel has no IPsec"},
		{DataPlaneKernel, 4500, works, DataPlaneKernel, "as configured"},
		{DataPlaneKernel, 0, noTCP, DataPlaneKernel, "as configured"},
		{DataPlaneKernel, 4500, noTCP, "", "without ESP in TCP; use it with --tcp-port 0"},
		{"magic", 0, works, "", "unknown"},
	} {
		got, reason, err := chooseDataPlane(Config{DataPlane: tt.wanted, TCPPort: tt.tcp}, tt.probe)
		if err != nil {
			reason = err.Error()
		}
		if got != tt.want || (err == nil) != (tt.want != "") || !strings.Contains(reason, tt.says) {
			t.Errorf("chooseDataPlane(%s) with TCP port %d = %s, %q, %v", tt.wanted, tt.tcp, got, reason, err)
		}
	}
}
