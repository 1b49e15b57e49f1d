package edge

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/swanherd/swanherd/ipsec/dataplane/memory"
	"github.com/swanherd/swanherd/ipsec/engine"
	"github.com/swanherd/swanherd/ipsec/ident"
	"github.com/swanherd/swanherd/ipsec/ike"
	"github.com/swanherd/swanherd/ipsec/ts"
)

// The transcript of a tunnel is found by either form of its name.
func TestServeTranscript(t *testing.T) {
	local := netip.MustParseAddrPort("192.0.2.1:4500")
	e, err := engine.New(engine.Config{Plane: memory.New(memory.NewSwitch(), local)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { _ = e.Run(ctx) })
	defer running.Wait()
	defer stop()
	id := func(s string) ident.ID {
		id, err := ident.ParseID(s)
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	lan := []ts.Selector{ts.FromPrefix(netip.MustParsePrefix("10.0.0.0/24"))}
	e.Apply([]engine.TunnelConfig{{
		Name: "networks/n/tunnels/a--b", Role: ike.RoleInitiator, Local: local, Remote: netip.MustParseAddrPort("192.0.2.2:4500"),
		Credentials: ident.Local{ID: id("a.example"), PSK: ident.PSK("for this test only, and long")},
		Peer:        ident.Remote{ID: id("b.example"), PSK: ident.PSK("for this test only, and long")},
		Children:    []ike.ChildConfig{{Name: "net", LocalTS: lan, RemoteTS: lan}},
	}})
	a := &agent{engine: e}
	get := func(tunnel string) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		a.serveTranscript(w, httptest.NewRequestWithContext(ctx, http.MethodGet, "/transcript?tunnel="+tunnel, nil))
		return w
	}
	for _, name := range []string{"a--b", "networks/n/tunnels/a--b"} {
		deadline := time.After(10 * time.Second)
		for !strings.Contains(get(name).Body.String(), "> IKE_SA_INIT req 0 {SA(") {
			select {
			case <-deadline:
				t.Fatalf("transcript of %s: %s", name, get(name).Body)
			case <-time.After(time.Millisecond):
			}
		}
	}
	if w := get("other"); w.Code != http.StatusNotFound || !strings.Contains(w.Body.String(), "a--b") {
		t.Errorf("of another tunnel: %d %s", w.Code, w.Body)
	}
}
