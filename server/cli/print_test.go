package cli

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/types/known/timestamppb"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

func TestSeveralMessagesAreDocuments(t *testing.T) {
	for _, format := range []string{"json", "yaml"} {
		var out bytes.Buffer
		s := &session{IO: IO{Out: &out}, output: format}
		for _, name := range []string{"networks/a/sites/one", "networks/a/sites/two"} {
			if err := s.printMessage(&swanherdv1.Site{Name: name}); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.printDeleted("networks/a/sites/three", false); err != nil {
			t.Fatal(err)
		}
		decode := json.NewDecoder(&out).Decode
		if format == "yaml" {
			decode = yaml.NewDecoder(&out).Decode
		}
		for _, want := range []string{"one", "two", "three"} {
			var m struct{ Name, Action string }
			if err := decode(&m); err != nil || m.Name != "networks/a/sites/"+want {
				t.Fatalf("%s: got %v, %v, want %s", format, m, err, want)
			}
			if want == "three" && m.Action != "ACTION_DELETED" {
				t.Errorf("%s: action is %q", format, m.Action)
			}
		}
		var rest any
		if err := decode(&rest); err != io.EOF {
			t.Errorf("%s: after the last one: %v, %v", format, rest, err)
		}
	}
}

// What an external authority is asked for, and why it did not sign, is shown.
func TestAskedAuthorityIsShown(t *testing.T) {
	at := func(hour int) *timestamppb.Timestamp {
		return timestamppb.New(time.Date(2027, 3, 1, hour, 0, 0, 0, time.UTC))
	}
	a := &swanherdv1.CertificateAuthority{
		Name: "networks/demo/certificateAuthority", Pin: "abc", ExpireTime: at(9), ExternalAuthority: "corp", RenewTime: at(1),
		Rotation: &swanherdv1.CertificateAuthority_Rotation{
			Phase: swanherdv1.CertificateAuthority_PHASE_AWAITING_CERTIFICATE, StartTime: at(1), ExternalAuthority: "corp", CertificateRequest: "-----BEGIN",
			SigningFailure: &swanherdv1.CertificateAuthority_SigningFailure{Attempts: 3, SinceTime: at(2), Reason: "step-ca answered 401 \x1b[2J: the key", RetryTime: at(3)},
		},
	}
	var out bytes.Buffer
	(&session{IO: IO{Out: &out}}).printAuthority(a)
	for _, want := range []string{
		"signed by corp, which is asked for the next one on 2027-03-01", "corp is asked to sign the new one", "it did not, 3 times since",
		"step-ca answered 401", "asked again at 2027-03-01T03:00:00Z", "swanherd ca import FILE",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("printed %q, want %q", out.String(), want)
		}
	}
	if strings.Contains(out.String(), "\x1b") {
		t.Errorf("printed %q", out.String())
	}
}

// Edges and other people write what an operator's terminal shows.
func TestTerminalIsSafe(t *testing.T) {
	var out bytes.Buffer
	table := newTable(&out, "NAME", "REASON")
	table.row("berlin", "\x1b[2J\x1b]0;owned\x07 gone\nforged  row\u202e")
	if err := table.flush(); err != nil {
		t.Fatal(err)
	}
	describe(&out, (&swanherdv1.Site{DisplayName: "a\x1b[1mb", Labels: map[string]string{"k": "v\r"}}).ProtoReflect(), "")
	if strings.ContainsAny(out.String(), "\x1b\x07\r\u202e") || strings.Count(out.String(), "\n") != 5 {
		t.Errorf("printed %q", out.String())
	}
}

func TestUsageErrors(t *testing.T) {
	config := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(config, []byte("current: a\ncontexts: [{name: a, server: 'h:1', ca_pin: 'sha256:00', token: swa_secret, network: demo}]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	run := func(args string) (int, string, string) {
		var out, errs bytes.Buffer
		code := Main(t.Context(), append([]string{"--config", config}, strings.Fields(args)...), IO{In: strings.NewReader(""), Out: &out, Err: &errs})
		return code, out.String(), errs.String()
	}
	for args, want := range map[string]string{
		"get":              "get takes a kind",
		"delete site":      "delete takes a kind and names",
		"describe site":    "describe takes a kind and a name",
		"watch tunnels x":  "tunnels are watched alone",
		"watch frob":       `no kind "frob"`,
		"watch users":      "users cannot be watched; there are alertrules, alerts, assertions, certificateauthorities, changesets,",
		"watch all sites":  "all are all kinds",
		"login a b":        "login takes one server",
		"events --limit 0": "--limit 0 is not within 1 and 1000",
		"get sites --frob": "unknown flag: --frob",
		"frob":             "unknown command",
		"delete tunnel x":  "cannot be deleted",
	} {
		if code, _, errs := run(args); code != exitUsage || !strings.Contains(errs, want) {
			t.Errorf("%s: exit %d with %q, want exit %d and %q", args, code, errs, exitUsage, want)
		}
	}
	for _, format := range []string{"table", "json", "yaml"} {
		code, out, errs := run("context list -o " + format)
		if code != exitOK || !strings.Contains(out, "demo") || strings.Contains(out, "swa_secret") {
			t.Errorf("contexts as %s: exit %d, %q, %q", format, code, out, errs)
		}
	}
}

// Where two edges have several paths, tables say over which uplinks a tunnel goes and of what
// class that is, and explain why there is none over others.
func TestPathsAreShown(t *testing.T) {
	tunnel := &swanherdv1.Tunnel{
		Name: "networks/demo/tunnels/a--b.wan.cell", A: &swanherdv1.TunnelEnd{Uplink: "wan"}, B: &swanherdv1.TunnelEnd{Uplink: "cell"},
		Path: &swanherdv1.TunnelPath{Group: "networks/demo/tunnels/a--b", Class: swanherdv1.TransportClass_TRANSPORT_CLASS_LTE, Metered: true},
	}
	for want, m := range map[string]*swanherdv1.Tunnel{
		"wan > cell LTE metered": tunnel,
		"wan > ?":                {A: tunnel.GetA(), B: &swanherdv1.TunnelEnd{}},
		"wan":                    {A: tunnel.GetA(), B: &swanherdv1.TunnelEnd{Gateway: "networks/demo/gateways/partner"}},
	} {
		if got := tunnelPath(m); got != want {
			t.Errorf("%v: %q, want %q", m, got, want)
		}
	}
	var out bytes.Buffer
	s := &session{IO: IO{Out: &out}, output: "table"}
	err := s.printExplanation(&swanherdv1.ExplainResponse{Reachable: true, Reason: "over a tunnel of its own", Hops: []*swanherdv1.ExplainHop{{
		FromEdge: "networks/demo/edges/a", ToEdge: "networks/demo/edges/b", Tunnel: tunnel.GetName(),
		Paths: []*swanherdv1.ExplainPath{
			{FromUplink: "wan", ToUplink: "cell", Tunnel: tunnel.GetName(), Class: tunnel.GetPath().GetClass(), Cost: 12, Status: swanherdv1.TunnelStatus_TUNNEL_STATUS_UP},
			{FromUplink: "wan", ToUplink: "mpls", Reason: "the two have no address family in common"},
		},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"a      wan      b    cell     LTE     12     a--b.wan.cell   UP       -",
		"a      wan      b    mpls     -       0      -               -        the two have no address family in common",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no line %q in\n%s", want, out.String())
		}
	}
}
