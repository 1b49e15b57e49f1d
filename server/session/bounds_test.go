package session_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"unicode/utf8"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

func TestUplinksAreBounded(t *testing.T) {
	many := func(n int) (out []*swanherdv1.Uplink) {
		for i := range n {
			out = append(out, &swanherdv1.Uplink{Name: fmt.Sprintf("wan%d", i)})
		}
		return out
	}
	for name, uplinks := range map[string][]*swanherdv1.Uplink{
		"too many":      many(17),
		"twice":         {{Name: "wan1"}, {Name: "wan1"}},
		"long name":     {{Name: "wan1", Interface: strings.Repeat("e", 65)}},
		"all addresses": {{Name: "wan1", Addresses: make([]string, 17)}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				e := w.dial(nil)
				e.send(&swanherdv1.EdgeMessage{Message: &swanherdv1.EdgeMessage_Hello{Hello: &swanherdv1.Hello{
					ProtocolVersion: 1, Uplinks: uplinks,
				}}})
				if _, err := e.end(); status.Code(err) != codes.InvalidArgument {
					t.Errorf("Hello: %v", err)
				}
				e = w.dial(&swanherdv1.Hello{Uplinks: many(16)})
				e.send(&swanherdv1.EdgeMessage{Message: &swanherdv1.EdgeMessage_Uplinks{Uplinks: &swanherdv1.UplinkReport{Uplinks: uplinks}}})
				if _, err := e.end(); status.Code(err) != codes.InvalidArgument {
					t.Errorf("report: %v", err)
				}
			})
		})
	}
}

// What an edge says in its own words is cut to what a person reads.
func TestWordsOfEdgesAreCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		bad := intent(2, "oslo/bad")
		w.board.Post(berlin, bad)
		e := w.dial(&swanherdv1.Hello{AgentVersion: strings.Repeat("é", 1<<20)})
		e.send(&swanherdv1.EdgeMessage{Message: &swanherdv1.EdgeMessage_Nack{Nack: &swanherdv1.Nack{
			Nonce: e.recv().GetIntent().GetNonce(), Code: swanherdv1.Nack_CODE_INVALID,
			Errors: []*swanherdv1.ResourceError{{Message: strings.Repeat("no ", 1<<19)}},
		}}})
		synctest.Wait()
		s := w.state()
		if len(s.GetAgentVersion()) > 100 || !utf8.ValidString(s.GetAgentVersion()) {
			t.Errorf("agent version has %d octets, valid: %t", len(s.GetAgentVersion()), utf8.ValidString(s.GetAgentVersion()))
		}
		if n := len(s.GetIntentError()); n == 0 || n > 1100 {
			t.Errorf("refusal has %d octets", n)
		}
	})
}
