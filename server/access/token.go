package access

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"strings"
)

// Prefixes of secrets, so that scanners and people recognise them.
const (
	apiTokenPrefix        = "swa_"
	enrollmentTokenPrefix = "swe_"
)

const secretSize = 32

// newSecret returns fresh random octets.
func newSecret() []byte {
	b := make([]byte, secretSize)
	rand.Read(b)
	return b
}

// newID returns a random id that can be the last segment of a resource name.
func newID() string {
	return "t" + strings.ToLower(rand.Text()[:15])
}

// hashSecret is what is stored of a secret.
func hashSecret(secret []byte) []byte {
	sum := sha256.Sum256(secret)
	return sum[:]
}

// matches compares a secret with the stored hash in constant time.
func matches(secret, hash []byte) bool {
	return subtle.ConstantTimeCompare(hashSecret(secret), hash) == 1
}

// errMalformedToken says nothing more: what is wrong with a token is nobody's
// business but its owner's.
var errMalformedToken = errors.New("token is malformed")

// formatAPIToken makes the form in which an API token is given out,
// `swa_{id}_{base64url of the secret}`.
func formatAPIToken(id string, secret []byte) string {
	return apiTokenPrefix + id + "_" + base64.RawURLEncoding.EncodeToString(secret)
}

func parseAPIToken(s string) (id string, secret []byte, err error) {
	rest, ok := strings.CutPrefix(s, apiTokenPrefix)
	if !ok || len(s) > 256 {
		return "", nil, errMalformedToken
	}
	id, encoded, ok := strings.Cut(rest, "_")
	if !ok || id == "" || strings.Contains(id, "/") {
		return "", nil, errMalformedToken
	}
	secret, err = base64.RawURLEncoding.DecodeString(encoded)
	if err != nil || len(secret) != secretSize {
		return "", nil, errMalformedToken
	}
	return id, secret, nil
}

// EnrollmentSecret is what an enrolment token holds for the edge: where the
// controller is, how to recognise it, and the secret.
type EnrollmentSecret struct {
	// Endpoints of the controller, `host:port`.
	Endpoints []string `json:"e"`
	// Pin is the hexadecimal SHA-256 of the controller authority's public key info.
	Pin string `json:"p"`
	// Name is `networks/{network}/enrollmentTokens/{token}`.
	Name string `json:"i"`
	// Secret is base64url of the random octets.
	Secret string `json:"s"`
}

// format returns the token as the operator gets it.
func (e EnrollmentSecret) format() (string, error) {
	b, err := json.Marshal(e)
	if err != nil {
		return "", err
	}
	return enrollmentTokenPrefix + base64.RawURLEncoding.EncodeToString(b), nil
}

// ParseEnrollmentToken parses a token that an edge presents and returns its
// resource name and its secret octets.
func ParseEnrollmentToken(s string) (name string, secret []byte, err error) {
	rest, ok := strings.CutPrefix(s, enrollmentTokenPrefix)
	if !ok {
		return "", nil, errMalformedToken
	}
	b, err := base64.RawURLEncoding.DecodeString(rest)
	if err != nil {
		return "", nil, errMalformedToken
	}
	var e EnrollmentSecret
	if err := json.Unmarshal(b, &e); err != nil {
		return "", nil, errMalformedToken
	}
	secret, err = base64.RawURLEncoding.DecodeString(e.Secret)
	if err != nil || len(secret) != secretSize {
		return "", nil, errMalformedToken
	}
	return e.Name, secret, nil
}

// linkName is the name under which a login link's code is stored.
func linkName(code string) string {
	return "loginLinks/" + hex.EncodeToString(hashSecret([]byte(code)))
}
