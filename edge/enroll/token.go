package enroll

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"
)

// tokenPrefix marks enrollment tokens, for people and for secret scanners.
const tokenPrefix = "swe_"

// maxTokenSize is the longest token that the controller takes.
const maxTokenSize = 4096

// Token is an enrollment token: where the controller is, how to recognise it, and
// the secret. Without a secret it is for a device whose serial number is registered.
// It prints as its resource name: the secret in it shows up nowhere but in the
// request to the controller.
type Token struct {
	name      string
	endpoints []string
	pin       [sha256.Size]byte
	secret    string // the token as the operator got it
}

// ParseToken parses a token as the operator got it. Its errors repeat nothing
// of the token.
func ParseToken(s string) (*Token, error) {
	const remedy = "; copy the whole token that `swanherd token create` printed"
	s = strings.TrimSpace(s)
	body, ok := strings.CutPrefix(s, tokenPrefix)
	if !ok {
		return nil, errors.New("enrollment token does not begin with " + tokenPrefix + remedy)
	}
	if len(s) > maxTokenSize {
		return nil, fmt.Errorf("enrollment token is longer than %d characters%s", maxTokenSize, remedy)
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(strings.TrimRight(body, "="))
	if err != nil {
		return nil, errors.New("enrollment token is not valid base64url" + remedy)
	}
	defer clear(raw)
	var fields struct {
		Endpoints []string `json:"e"`
		Pin       string   `json:"p"`
		Name      string   `json:"i"`
	}
	if json.Unmarshal(raw, &fields) != nil {
		return nil, errors.New("enrollment token is cut or damaged" + remedy)
	}
	t := &Token{name: fields.Name, endpoints: fields.Endpoints, secret: s}
	if len(t.endpoints) == 0 {
		return nil, errors.New("enrollment token names no controller" + remedy)
	}
	for _, e := range t.endpoints {
		if _, _, err := net.SplitHostPort(e); err != nil {
			return nil, fmt.Errorf("enrollment token names a controller that is not host:port: %w", err)
		}
	}
	if !t.setPin(fields.Pin) {
		return nil, errors.New("enrollment token has no valid pin of the controller's authority" + remedy)
	}
	return t, nil
}

// Controllers returns what takes the place of a token for a device whose serial
// number is registered: the controller's `host:port`s, and the pin of its authority
// as the controller prints it.
func Controllers(endpoints []string, pin string) (*Token, error) {
	t := &Token{endpoints: endpoints}
	for _, e := range endpoints {
		if _, _, err := net.SplitHostPort(e); err != nil {
			return nil, fmt.Errorf("controller %q is not host:port: %w", e, err)
		}
	}
	if len(endpoints) == 0 {
		return nil, errors.New("no controller is named")
	}
	if !t.setPin(strings.TrimPrefix(pin, "sha256:")) {
		return nil, fmt.Errorf("pin of the controller's authority %q: want sha256: and 64 hexadecimal digits, as the controller printed it", pin)
	}
	return t, nil
}

func (t *Token) setPin(text string) bool {
	pin, err := hex.DecodeString(text)
	if err != nil || len(pin) != len(t.pin) {
		return false
	}
	copy(t.pin[:], pin)
	return true
}

// Endpoints are where the controller is reached, `host:port`, best first.
func (t *Token) Endpoints() []string { return t.endpoints }

// String is the token's resource name, without the secret.
func (t *Token) String() string {
	if t.secret == "" {
		return "the device's serial number"
	}
	return "enrollment token " + t.name
}

// GoString keeps the secret out of %#v.
func (t *Token) GoString() string { return t.String() }
