package fleet

import (
	"testing"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// The reason of a status says all that an end knows of its failure.
func TestWhy(t *testing.T) {
	for want, err := range map[string]*swanherdv1.TunnelError{
		"":                                       nil,
		": PEER_SILENT":                          {Code: "PEER_SILENT"},
		": LOCAL (no; remedy: do)":               {Code: "LOCAL", Message: "no", Remedy: "do"},
		": peer reports X (no; ours: a or b)":    {Code: "X", Message: "no", Remote: true, Ours: []string{"a", "b"}},
		": Y (ours: a; theirs: c; remedy: more)": {Code: "Y", Ours: []string{"a"}, Theirs: []string{"c"}, Remedy: "more"},
	} {
		e := endState{report: &swanherdv1.TunnelReport{LastError: err}}
		if got := e.why(); got != want {
			t.Errorf("%v is told as %q, want %q", err, got, want)
		}
	}
}
