package bridge

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// fleet answers calls and notes the credential that came along.
type fleet struct {
	swanherdv1.UnimplementedFleetServiceServer
	authorization chan string
}

func (f *fleet) WatchTunnels(r *swanherdv1.WatchTunnelsRequest, s grpc.ServerStreamingServer[swanherdv1.WatchTunnelsResponse]) error {
	md, _ := metadata.FromIncomingContext(s.Context())
	f.authorization <- strings.Join(md.Get("authorization"), ",")
	for range 3 {
		if err := s.Send(&swanherdv1.WatchTunnelsResponse{Tunnel: &swanherdv1.Tunnel{Name: r.GetParent()}}); err != nil {
			return err
		}
	}
	return status.Error(codes.Aborted, "line one\nline two ü")
}

func newTestServer(t *testing.T) (*httptest.Server, *fleet) {
	t.Helper()
	lis := bufconn.Listen(1 << 16)
	server := grpc.NewServer()
	f := &fleet{authorization: make(chan string, 10)}
	swanherdv1.RegisterFleetServiceServer(server, f)
	go server.Serve(lis)
	t.Cleanup(server.Stop)
	conn, err := grpc.NewClient("passthrough:///bufconn", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return lis.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	h := httptest.NewServer(New(Config{
		Conn:    conn,
		Methods: []string{swanherdv1.FleetService_WatchTunnels_FullMethodName},
		Authorization: func(r *http.Request) (string, bool) {
			c, err := r.Cookie("session")
			if err != nil {
				return "", false
			}
			return "Bearer " + c.Value, true
		},
	}))
	t.Cleanup(h.Close)
	return h, f
}

func post(t *testing.T, h *httptest.Server, method string, body []byte, edit func(*http.Request)) *http.Response {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, h.URL+method, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", ContentType)
	r.AddCookie(&http.Cookie{Name: "session", Value: "secret"})
	if edit != nil {
		edit(r)
	}
	resp, err := h.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	return resp
}

func frame(payload []byte) []byte {
	b := binary.BigEndian.AppendUint32([]byte{0}, uint32(len(payload)))
	return append(b, payload...)
}

// readFrames returns the messages and the trailers of an answer.
func readFrames(t *testing.T, body io.Reader) (messages [][]byte, trailers string) {
	t.Helper()
	for {
		var h [frameHeader]byte
		if _, err := io.ReadFull(body, h[:]); err == io.EOF {
			return messages, trailers
		} else if err != nil {
			t.Fatal(err)
		}
		p := make([]byte, binary.BigEndian.Uint32(h[1:]))
		if _, err := io.ReadFull(body, p); err != nil {
			t.Fatal(err)
		}
		if h[0] == flagTrailers {
			trailers = string(p)
		} else {
			messages = append(messages, p)
		}
	}
}

func TestStreamsMessagesThenStatus(t *testing.T) {
	h, f := newTestServer(t)
	request, err := proto.Marshal(&swanherdv1.WatchTunnelsRequest{Parent: "networks/demo"})
	if err != nil {
		t.Fatal(err)
	}
	resp := post(t, h, swanherdv1.FleetService_WatchTunnels_FullMethodName, frame(request), func(r *http.Request) {
		r.Header.Set("Authorization", "Bearer forged") // a page's own header must not go along
	})
	messages, trailers := readFrames(t, resp.Body)
	if len(messages) != 3 {
		t.Fatalf("got %d messages, want 3", len(messages))
	}
	var m swanherdv1.WatchTunnelsResponse
	if err := proto.Unmarshal(messages[2], &m); err != nil || m.GetTunnel().GetName() != "networks/demo" {
		t.Errorf("message is %v, %v", &m, err)
	}
	if want := "grpc-status: 10\r\ngrpc-message: line%20one%0Aline%20two%20%C3%BC\r\n"; trailers != want {
		t.Errorf("trailers are %q, want %q", trailers, want)
	}
	if got := <-f.authorization; got != "Bearer secret" {
		t.Errorf("authorization is %q, want the session's", got)
	}
}

func TestRefuses(t *testing.T) {
	h, _ := newTestServer(t)
	method := swanherdv1.FleetService_WatchTunnels_FullMethodName
	for name, c := range map[string]struct {
		method string
		body   []byte
		edit   func(*http.Request)
		http   int
		grpc   string
	}{
		"method not allowed":  {method: swanherdv1.FleetService_ListTunnels_FullMethodName, body: frame(nil), http: http.StatusNotFound},
		"wrong content type":  {method: method, body: frame(nil), edit: func(r *http.Request) { r.Header.Set("Content-Type", "text/plain") }, http: http.StatusUnsupportedMediaType},
		"GET":                 {method: method, edit: func(r *http.Request) { r.Method = http.MethodGet }, http: http.StatusUnsupportedMediaType},
		"no session":          {method: method, body: frame(nil), edit: func(r *http.Request) { r.Header.Del("Cookie") }, http: 200, grpc: "grpc-status: 16"},
		"no frame":            {method: method, body: []byte{0, 0}, http: 200, grpc: "grpc-status: 3"},
		"claims more than is": {method: method, body: []byte{0, 0, 0, 1, 0, 1}, http: 200, grpc: "grpc-status: 3"},
		"too long":            {method: method, body: []byte{0, 0xff, 0xff, 0xff, 0xff}, http: 200, grpc: "grpc-status: 3"},
		"compressed":          {method: method, body: []byte{1, 0, 0, 0, 0}, http: 200, grpc: "grpc-status: 3"},
	} {
		t.Run(name, func(t *testing.T) {
			resp := post(t, h, c.method, c.body, c.edit)
			if resp.StatusCode != c.http {
				t.Fatalf("HTTP status is %d, want %d", resp.StatusCode, c.http)
			}
			if c.grpc == "" {
				return
			}
			if _, trailers := readFrames(t, resp.Body); !strings.HasPrefix(trailers, c.grpc) {
				t.Errorf("trailers are %q, want %s", trailers, c.grpc)
			}
		})
	}
}
