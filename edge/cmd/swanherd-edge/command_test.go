package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/swanherd/swanherd/edge"
)

func TestPrintStatus(t *testing.T) {
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	s := &edge.Status{
		Edge: "networks/n/edges/a", AgentVersion: "v1", StartTime: now.Add(-time.Minute),
		DataPlane: "userspace", DataPlaneReason: "as configured", Interface: "swan0", KeyLog: "/tmp/k",
		Session:     &edge.SessionStatus{Connected: true, Endpoint: "c:7444", Since: now.Add(-5 * time.Second), RoundTripMs: 1.25},
		Uplinks:     []json.RawMessage{[]byte(`{"name":"wan1","interface":"eth0","addresses":["192.0.2.1"],"nats":[{"address":"192.0.2.1","mapping":"NAT_MAPPING_ENDPOINT_INDEPENDENT","mapped_address":"203.0.113.7","mapped_port":31022}]}`), []byte(`{"name":"lte","interface":"wwan0"}`)},
		UplinksDown: map[string]string{"lte": "interface wwan0 is missing"},
		Tunnels: []json.RawMessage{[]byte(`{"tunnel":"networks/n/tunnels/a--b","state":"TUNNEL_STATE_FAILED","path_mtu":{"octets":1400,"limited":true,"search":"complete"},"state_time":"2026-11-23T11:59:00Z",
			"quality":{"window_probes":100,"window_lost":2,"rtt_avg_us":12340},
			"last_error":{"code":"TS_UNACCEPTABLE","message":"create Child SA: no","remote":true,"time":"2026-11-23T11:59:30Z",
			"kind":"TUNNEL_ERROR_KIND_SELECTORS","exchange":"IKE_AUTH","payload":"TSi","child":"lan","ours":["a","b"],"remedy":"mirror them"}}`)},
		Paths: []edge.PathStatus{{Group: "networks/n/tunnels/a--b", Class: "voice", InUse: []string{"networks/n/tunnels/a--b.2"}, Since: now.Add(-time.Minute), Reason: "it is better"}},
		Switches: []edge.SwitchStatus{
			{Time: now.Add(-time.Hour), Group: "networks/n/tunnels/a--b", To: []string{"networks/n/tunnels/a--b.1", "networks/n/tunnels/a--b.2"}, Cause: "first", Reason: "best"},
			{Time: now.Add(-time.Minute), Group: "networks/n/tunnels/a--b", Class: "voice", From: []string{"networks/n/tunnels/a--b.1"}, To: []string{"networks/n/tunnels/a--b.2"}, Cause: "dead", Reason: "no answer"},
		},
	}
	var out bytes.Buffer
	if err := printStatus(&out, s, now); err != nil {
		t.Fatal(err)
	}
	const want = `Edge:        networks/n/edges/a
Agent:       v1, up 1m0s
Data plane:  userspace on swan0 (as configured)
KEY LOG:     /tmp/k gets the keys of all tunnels: whoever reads it reads their traffic
Controller:  c:7444, connected for 5s, round trip 1.2 ms
Intent:      none yet
Uplink:      wan1  eth0  192.0.2.1
Outside:     192.0.2.1 is 203.0.113.7:31022 (endpoint-independent NAT)
Uplink:      lte  wwan0  -  down: interface wwan0 is missing

TUNNEL  STATE   SINCE  REMOTE  PATH MTU        RTT       LOSS   IKE SUITE  CHILD  SPI IN/OUT  IN  OUT  LAST ERROR
a--b    failed  1m0s   -       1400 (limited)  12.34 ms  2.0 %  -          -      -           -   -    TS_UNACCEPTABLE

PATHS TO  CLASS  IN USE  SINCE  WHY
a--b      voice  a--b.2  1m0s   it is better

SWITCHED    PATHS TO  CLASS  FROM    TO              CAUSE  WHY
1m0s ago    a--b      voice  a--b.1  a--b.2          dead   no answer
1h0m0s ago  a--b      -      -       a--b.1, a--b.2  first  best

a--b failed 30s ago, as the peer found:
  what:      create Child SA: no
  kind:      selectors
  exchange:  IKE_AUTH
  payload:   TSi
  Child SA:  lan
  ours:      a or b
  remedy:    mirror them
`
	if out.String() != want {
		t.Errorf("status:\n%s\nwant:\n%s", out.String(), want)
	}
}

func TestVolume(t *testing.T) {
	for octets, want := range map[uint64]string{0: "1 p 0 B", 999: "1 p 999 B", 1500: "1 p 1.5 kB", 2_000_000: "1 p 2.0 MB"} {
		if got := volume(1, octets); got != want {
			t.Errorf("volume(1, %d) = %q, want %q", octets, got, want)
		}
	}
}

// A mistake on the command line is told apart from a failure, by exit code 2.
func TestUsageErrors(t *testing.T) {
	t.Setenv(tokenVariable, "")
	for _, line := range []string{
		"run --bogus", "run extra", "run --uplink x", "run --log-level loud", "run --metrics-listen x",
		"status -o yaml", "transcript", "transcript a b", "enroll", "run --token a --token-file b", "fingerprint --ek",
	} {
		cmd := newCommand()
		cmd.SetArgs(strings.Fields(line))
		err := cmd.Execute()
		var usage usageError
		if !errors.As(err, &usage) {
			t.Errorf("%s: %v, want a usage error", line, err)
		}
	}
}
