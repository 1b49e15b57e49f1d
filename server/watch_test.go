package server_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/base64"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// watcher is a stream of changes of the topology.
type watcher struct {
	t      testing.TB
	stream swanherdv1.TopologyService_WatchClient
	// token is the newest one to go on by.
	token string
}

func (c *controller) watch(t *testing.T, token string) *watcher {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	stream, err := c.topology().Watch(ctx, &swanherdv1.WatchRequest{Parent: "networks/demo", Kinds: []string{"sites", "meshes"}, ResumeToken: token})
	if err != nil {
		t.Fatal(err)
	}
	return &watcher{t: t, stream: stream}
}

// next returns what comes until there is a token to go on by.
func (w *watcher) next() []string {
	w.t.Helper()
	var out []string
	for {
		m, err := w.stream.Recv()
		if err != nil {
			w.t.Fatal(err)
		}
		name := m.GetSite().GetName() + m.GetMesh().GetName()
		out = append(out, strings.TrimSpace(strings.TrimPrefix(m.GetKind().String(), "KIND_")+" "+name[strings.LastIndexByte(name, '/')+1:]))
		if w.token = m.GetResumeToken(); w.token != "" {
			return out
		}
	}
}

func (w *watcher) gets(want ...string) {
	w.t.Helper()
	if got := w.next(); !slices.Equal(got, want) {
		w.t.Errorf("the stream says %q, want %q", got, want)
	}
}

func (c *controller) setSite(id, display string) {
	c.t.Helper()
	if _, err := c.topology().UpdateSite(c.t.Context(), &swanherdv1.UpdateSiteRequest{
		Site: &swanherdv1.Site{Name: "networks/demo/sites/" + id, DisplayName: display}, AllowMissing: true,
	}); err != nil {
		c.t.Fatal(err)
	}
}

// A stream tells everything, then each change, and goes on where it broke: also at
// a controller that was started anew, and with what was deleted meanwhile.
func TestWatchGoesOnWhereItBroke(t *testing.T) {
	c := startController(t)
	c.apply()
	w := c.watch(t, "")
	w.gets("UPSERTED berlin", "UPSERTED oslo", "UPSERTED rome", "UPSERTED all", "SYNCED")
	c.setSite("oslo", "Oslo")
	w.gets("UPSERTED oslo")
	token := w.token

	if _, err := c.topology().DeleteSite(t.Context(), &swanherdv1.DeleteSiteRequest{Name: "networks/demo/sites/rome"}); err != nil {
		t.Fatal(err)
	}
	c.setSite("oslo", "Christiania")
	c.setSite("wien", "Wien")
	w = c.watch(t, token)
	w.gets("UPSERTED oslo", "REMOVED rome", "UPSERTED wien", "SYNCED")
	c.restart()
	w = c.watch(t, token)
	w.gets("UPSERTED oslo", "REMOVED rome", "UPSERTED wien", "SYNCED")
	c.watch(t, w.token).gets("SYNCED")

	for what, x := range map[string]struct {
		token string
		want  codes.Code
	}{
		"nonsense":           {"bm9uc2Vuc2U", codes.InvalidArgument},
		"of another request": {reviseToken(t, token, `"q":"`, `"q":"AAAA`), codes.InvalidArgument},
		"of another store":   {reviseToken(t, token, `"e":"`, `"e":"X`), codes.OutOfRange},
		"of no revision yet": {reviseToken(t, token, `"r":`, `"r":99999`), codes.OutOfRange},
	} {
		stream, err := c.topology().Watch(t.Context(), &swanherdv1.WatchRequest{Parent: "networks/demo", Kinds: []string{"sites", "meshes"}, ResumeToken: x.token})
		if err == nil {
			_, err = stream.Recv()
		}
		if status.Code(err) != x.want {
			t.Errorf("a token that is %s: %v, want %v", what, err, x.want)
		}
	}
}

func reviseToken(t testing.TB, token, old, new string) string {
	t.Helper()
	b, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil {
		t.Fatal(err)
	}
	return base64.RawURLEncoding.EncodeToString([]byte(strings.Replace(string(b), old, new, 1)))
}

func TestWatchByREST(t *testing.T) {
	c := startController(t)
	c.apply()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+c.s.Info().OperatorAddr.String()+"/v1/networks/demo:watch?kinds=sites", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+c.token)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: c.roots}}}
	defer client.CloseIdleConnections()
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	line, err := bufio.NewReader(resp.Body).ReadString('\n')
	if err != nil || !strings.Contains(line, "networks/demo/sites/berlin") || !strings.Contains(line, "KIND_UPSERTED") {
		t.Errorf("%s: %q, %v", resp.Status, line, err)
	}
}

// A stream ends with the right to see it.
func TestWatchEndsWithItsToken(t *testing.T) {
	c := startController(t)
	c.apply()
	made, err := c.access().CreateApiToken(t.Context(), &swanherdv1.CreateApiTokenRequest{ApiToken: &swanherdv1.ApiToken{
		Role: swanherdv1.Role_ROLE_VIEWER, Networks: []string{"networks/demo"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	stream, err := swanherdv1.NewTopologyServiceClient(c.dial(made.GetSecret())).Watch(t.Context(), &swanherdv1.WatchRequest{Parent: "networks/-", Kinds: []string{"networks"}})
	if err != nil {
		t.Fatal(err)
	}
	if m, err := stream.Recv(); err != nil || m.GetNetwork().GetName() != "networks/demo" {
		t.Fatalf("%v, %v", m, err)
	}
	if _, err := c.access().DeleteApiToken(t.Context(), &swanherdv1.DeleteApiTokenRequest{Name: made.GetName()}); err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = stream.Recv()
	}
	if status.Code(err) != codes.Unauthenticated {
		t.Errorf("the stream ended with %v", err)
	}
}
