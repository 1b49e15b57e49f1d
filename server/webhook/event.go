package webhook

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// Types of events.
const (
	TypeFiring   = "dev.swanherd.alert.firing"
	TypeResolved = "dev.swanherd.alert.resolved"
	TypeTest     = "dev.swanherd.alert.test"
)

// Message is one event for one sink.
type Message struct {
	// ID is the same each time the message is sent.
	ID   string
	Type string
	// Source is the controller, a URI.
	Source string
	Time   time.Time
	Alert  *swanherdv1.Alert
}

// messageOf is the message that a stored delivery stands for.
func messageOf(id, source string, a *swanherdv1.Alert) Message {
	m := Message{ID: id, Type: TypeFiring, Source: source, Time: a.GetFireTime().AsTime(), Alert: a}
	if a.GetState() == swanherdv1.Alert_STATE_RESOLVED {
		m.Type, m.Time = TypeResolved, a.GetResolveTime().AsTime()
	}
	return m
}

// envelope is a CloudEvent (CloudEvents 1.0, JSON event format, Section 3).
type envelope struct {
	SpecVersion     string          `json:"specversion"`
	ID              string          `json:"id"`
	Source          string          `json:"source"`
	Type            string          `json:"type"`
	Subject         string          `json:"subject,omitempty"`
	Time            string          `json:"time"`
	DataContentType string          `json:"datacontenttype"`
	Data            json.RawMessage `json:"data"`
}

func (m Message) body() ([]byte, error) {
	data, err := protojson.Marshal(m.Alert)
	if err != nil {
		return nil, fmt.Errorf("encode the alert: %w", err)
	}
	return json.Marshal(envelope{
		SpecVersion: "1.0", ID: m.ID, Source: m.Source, Type: m.Type, Subject: m.Alert.GetResource(),
		Time: m.Time.UTC().Format(time.RFC3339Nano), DataContentType: "application/json", Data: data,
	})
}

const (
	secretPrefix       = "whsec_"
	minSecret, maxSize = 24, 64 // octets, as Standard Webhooks has it
)

// ParseSecret returns the key that a secret stands for.
func ParseSecret(secret string) ([]byte, error) {
	text, ok := strings.CutPrefix(secret, secretPrefix)
	key, err := base64.StdEncoding.DecodeString(text)
	if !ok || err != nil || len(key) < minSecret || len(key) > maxSize {
		return nil, errors.New("is not whsec_ and 24 to 64 octets in base64")
	}
	return key, nil
}

// FormatSecret is the secret that stands for a key.
func FormatSecret(key []byte) string { return secretPrefix + base64.StdEncoding.EncodeToString(key) }

// sign returns the value of webhook-signature.
func sign(key []byte, id string, at time.Time, body []byte) string {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(id + "." + strconv.FormatInt(at.Unix(), 10) + "."))
	h.Write(body)
	return "v1," + base64.StdEncoding.EncodeToString(h.Sum(nil))
}
