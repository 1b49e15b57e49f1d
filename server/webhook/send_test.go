package webhook

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	standard "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"google.golang.org/protobuf/types/known/timestamppb"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

var testKey = []byte("0123456789abcdef0123456789abcdef")

// receiver is a real HTTPS server, and a sink for it.
func receiver(t *testing.T, handle http.HandlerFunc) *swanherdv1.WebhookSink {
	s := httptest.NewTLSServer(handle)
	s.Config.ErrorLog = nil
	t.Cleanup(s.Close)
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	return &swanherdv1.WebhookSink{Name: "networks/demo/webhookSinks/noc", Url: s.URL + "/alerts", CaCertificates: string(ca)}
}

func firing() Message {
	return messageOf("18a0-a1-firing", "https://swanherd.example", &swanherdv1.Alert{
		Name: "networks/demo/alerts/a1", State: swanherdv1.Alert_STATE_FIRING, Resource: "networks/demo/edges/berlin", Summary: "berlin has no session",
		Severity: swanherdv1.AlertSeverity_ALERT_SEVERITY_CRITICAL, FireTime: timestamppb.New(time.Unix(1_700_000_000, 5)),
	})
}

// The signature is what the library of Standard Webhooks wants, and the body what
// CloudEvents says.
func TestAMessageIsASignedCloudEvent(t *testing.T) {
	var body []byte
	var header http.Header
	sink := receiver(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ = io.ReadAll(r.Body)
		header = r.Header
		w.WriteHeader(http.StatusNoContent)
	})
	sender := &Sender{AllowLocal: true}
	if code, err := sender.Send(t.Context(), sink, testKey, firing()); err != nil || code != 204 {
		t.Fatalf("%d, %v", code, err)
	}
	verifier, err := standard.NewWebhook(FormatSecret(testKey))
	if err != nil {
		t.Fatal(err)
	}
	if err := verifier.Verify(body, header); err != nil {
		t.Errorf("the library refuses the signature: %v", err)
	}
	if err := verifier.Verify(append(body, ' '), header); err == nil {
		t.Error("the library takes another body")
	}
	if got := header.Get("Content-Type"); !strings.HasPrefix(got, "application/cloudevents+json") {
		t.Errorf("Content-Type is %s", got)
	}
	var event map[string]any
	if err := json.Unmarshal(body, &event); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"specversion": "1.0", "id": "18a0-a1-firing", "source": "https://swanherd.example", "type": TypeFiring,
		"subject": "networks/demo/edges/berlin", "time": "2023-11-14T22:13:20.000000005Z", "datacontenttype": "application/json",
	} {
		if event[name] != want {
			t.Errorf("%s is %v, want %s", name, event[name], want)
		}
	}
	if data, _ := event["data"].(map[string]any); data["summary"] != "berlin has no session" || data["state"] != "STATE_FIRING" {
		t.Errorf("data is %v", event["data"])
	}
}

func TestReceiversThatDoNotTakeIt(t *testing.T) {
	elsewhere := 0
	other := receiver(t, func(http.ResponseWriter, *http.Request) { elsewhere++ })
	for name, c := range map[string]struct {
		handle http.HandlerFunc
		code   int
		want   string
	}{
		"refuses": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) }, 500, "answered 500"},
		"redirects": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, other.GetUrl(), http.StatusTemporaryRedirect)
		}, 307, "not followed"},
		"hangs up": {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, 0, "send"},
		"floods headers": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X", strings.Repeat("a", 1<<20))
			w.WriteHeader(200)
		}, 0, "send"},
	} {
		t.Run(name, func(t *testing.T) {
			sender := &Sender{AllowLocal: true}
			code, err := sender.Send(t.Context(), receiver(t, c.handle), testKey, firing())
			if code != c.code || err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%d, %v; want %d and %q", code, err, c.code, c.want)
			}
		})
	}
	if elsewhere != 0 {
		t.Error("a redirect was followed")
	}
}

// A receiver that never ends its answer, or never begins it, costs no more than the time
// that the caller has.
func TestReceiversThatTakeTheirTime(t *testing.T) {
	sender := &Sender{AllowLocal: true}
	endless := receiver(t, func(w http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
			if _, err := w.Write(make([]byte, 64<<10)); err != nil {
				return
			}
		}
	})
	if code, err := sender.Send(t.Context(), endless, testKey, firing()); code != 200 || err != nil {
		t.Errorf("an answer without an end: %d, %v", code, err)
	}
	silent := receiver(t, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // only then does the server see that the caller left
		<-r.Context().Done()
		panic(http.ErrAbortHandler) // to return would be an answer of 200, which can overtake the end of the connection
	})
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if code, err := sender.Send(ctx, silent, testKey, firing()); code != 0 || err == nil || !strings.Contains(err.Error(), "no answer") {
		t.Errorf("a receiver that says nothing: %d, %v", code, err)
	}
}

func TestAReceiverThatIsNotTheOneIsRefused(t *testing.T) {
	sender := &Sender{AllowLocal: true}
	sink := receiver(t, func(http.ResponseWriter, *http.Request) { t.Error("it got the alert") })
	sink.CaCertificates = ""
	if _, err := sender.Send(t.Context(), sink, testKey, firing()); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("a certificate of nobody: %v", err)
	}
}

// What only this host may reach is refused when it is dialled, whatever name it has.
func TestLocalReceiversAreRefused(t *testing.T) {
	sink := receiver(t, func(http.ResponseWriter, *http.Request) { t.Error("it got the alert") })
	sink.Url = strings.Replace(sink.GetUrl(), "127.0.0.1", "localhost", 1)
	if _, err := (&Sender{}).Send(t.Context(), sink, testKey, firing()); err == nil || !strings.Contains(err.Error(), "--webhook-allow-local") {
		t.Errorf("a name that resolves to loopback: %v", err)
	}
}

func TestAddressesOfReceivers(t *testing.T) {
	for address, ok := range map[string]bool{
		"192.0.2.1": true, "10.0.0.1": true, "2001:db8::1": true, "fd00::1": true,
		"127.0.0.1": false, "127.8.8.8": false, "::1": false, "::ffff:127.0.0.1": false, "0.0.0.0": false, "0.1.2.3": false, "::": false,
		"169.254.169.254": false, "fe80::1": false, "fe80::1%eth0": false, "::ffff:169.254.169.254": false, "64:ff9b::a9fe:a9fe": false, "64:ff9b::7f00:1": false,
		"224.0.0.1": false, "ff02::1": false, "255.255.255.255": false,
	} {
		if err := checkAddr(netip.MustParseAddr(address), false); (err == nil) != ok {
			t.Errorf("%s: %v", address, err)
		}
	}
	for _, address := range []string{"127.0.0.1", "::1", "169.254.1.1"} {
		if err := checkAddr(netip.MustParseAddr(address), true); err != nil {
			t.Errorf("%s is refused though it is allowed: %v", address, err)
		}
	}
}

func TestURLsOfReceivers(t *testing.T) {
	for address, ok := range map[string]bool{
		"https://noc.example.net/hook?team=1": true, "https://noc.example.net:8443/hook": true, "https://[2001:db8::1]/": true,
		"http://noc.example.net": false, "https://": false, "https:noc": false, "noc.example.net": false, "https://a:b@noc.example.net/": false,
		"https://noc.example.net/#x": false, "https://noc.example.net:99999/": false, "https://127.0.0.1/": false, "https://[::1]:443/": false, "file:///etc/passwd": false, "": false, "https://%zz/": false,
	} {
		if err := CheckURL(address, false); (err == nil) != ok {
			t.Errorf("%s: %v", address, err)
		}
	}
}

func TestSecrets(t *testing.T) {
	if key, err := ParseSecret(FormatSecret(testKey)); err != nil || string(key) != string(testKey) {
		t.Errorf("%q, %v", key, err)
	}
	for _, s := range []string{"", "whsec_", "whsec_AAAA", "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=", "whsec_!!!!", FormatSecret(make([]byte, 65)), FormatSecret(make([]byte, 23))} {
		if _, err := ParseSecret(s); err == nil {
			t.Errorf("%q is taken for a secret", s)
		}
	}
}
