package edge

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// What a bundle shows of an intent has no key in it, and the intent keeps its own.
func TestBundleHasNoSecrets(t *testing.T) {
	psk := &swanherdv1.PskAuthentication{Secret: []byte("a secret of a test")}
	intent := &swanherdv1.EdgeIntent{Tunnels: []*swanherdv1.TunnelIntent{{
		Name: "networks/n/tunnels/partner", Authentication: &swanherdv1.Authentication{Method: &swanherdv1.Authentication_Psk{Psk: psk}},
	}}}
	secret, err := protojson.Marshal(&swanherdv1.PskAuthentication{Secret: psk.GetSecret()})
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Split(string(secret), `"`)[3] // in the base64 of JSON
	whole, err := protojson.Marshal(intent)
	if err != nil || !strings.Contains(string(whole), text) {
		t.Fatalf("the secret %q is not where it is looked for: %s, %v", text, whole, err)
	}
	shown, err := protojson.Marshal(withoutSecrets(intent))
	if err != nil || strings.Contains(string(shown), text) || !strings.Contains(string(shown), "tunnels/partner") {
		t.Errorf("shown is %s, %v", shown, err)
	}
	if string(psk.GetSecret()) != "a secret of a test" {
		t.Error("the intent itself lost its secret")
	}
}
