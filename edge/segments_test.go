package edge

import (
	"log/slog"
	"os"
	"strings"
	"testing"
)

func TestParseSegment(t *testing.T) {
	for text, want := range map[string]string{
		"name=corp,netns=corp": "", "netns=/run/netns/x,name=iot-2": "",
		"name=corp": "lacks", "netns=corp": "lacks", "name=Corp,netns=x": "lacks", "name=default,netns=x": "default segment",
		"name=corp,vrf=x": "unknown key", "": "unknown key",
	} {
		_, err := ParseSegment(text)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

// A segment needs a network namespace that is there and is not the agent's own.
func TestSegmentNamespaces(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: entering network namespaces needs root")
	}
	for _, c := range []struct{ namespace, want string }{
		{"no-such-namespace-here", "ip netns add no-such-namespace-here"}, {"/proc/self/ns/net", "agent's own"}, {"/dev/null", "/dev/null"},
	} {
		open, err := openSegments([]Segment{{Name: "corp", Namespace: c.namespace}}, slog.New(slog.DiscardHandler))
		if err == nil {
			closeSegments(open)
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.namespace, err, c.want)
		}
	}
}
