package webhook

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

const (
	// sendTimeout bounds one try, as Standard Webhooks recommends.
	sendTimeout = 15 * time.Second
	// maxAnswer is how much of an answer is read so that the connection can be used again;
	// nothing in it counts.
	maxAnswer       = 4 << 10
	maxAnswerHeader = 16 << 10
)

// CheckURL says what is wrong with the address of a receiver.
func CheckURL(address string, allowLocal bool) error {
	u, err := url.Parse(address)
	switch {
	case err != nil:
		return errors.New("is not a URL")
	case u.Scheme != "https" || u.Hostname() == "" || u.Opaque != "":
		return errors.New("is not of the form https://host/path")
	case u.User != nil:
		return errors.New("holds a user or password, which logs would show; the receiver checks the signature")
	case u.Fragment != "":
		return errors.New("has a fragment, which is never sent; leave it out")
	}
	if port := u.Port(); port != "" {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return errors.New("has a port that is none")
		}
	}
	if a, err := netip.ParseAddr(u.Hostname()); err == nil {
		return checkAddr(a, allowLocal)
	}
	return nil
}

// nat64 holds IPv4 addresses in IPv6 ones (RFC 6052, Section 2.1).
var nat64 = netip.MustParsePrefix("64:ff9b::/96")

// checkAddr refuses addresses that reach what only this host, or its link, may reach.
func checkAddr(a netip.Addr, allowLocal bool) error {
	a = a.Unmap().WithZone("")
	if nat64.Contains(a) {
		b := a.As16()
		a = netip.AddrFrom4([4]byte(b[12:]))
	}
	switch {
	case a.IsUnspecified() || a.IsMulticast() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return fmt.Errorf("%s is no address of a receiver", a)
	case allowLocal:
		return nil
	case a.IsLoopback(), a.Is4() && a.As4()[0] == 0:
		return fmt.Errorf("%s is this host; the controller sends there only with --webhook-allow-local", a)
	case a.IsLinkLocalUnicast():
		return fmt.Errorf("%s is of the link, as metadata of clouds is; the controller sends there only with --webhook-allow-local", a)
	}
	return nil
}

// CheckAuthorities says what is wrong with authorities in PEM.
func CheckAuthorities(pem string) error {
	if pem != "" && !x509.NewCertPool().AppendCertsFromPEM([]byte(pem)) {
		return errors.New("holds no certificate in PEM")
	}
	return nil
}

// Sender sends messages.
type Sender struct {
	// AllowLocal allows receivers on this host and its link.
	AllowLocal bool
}

// client trusts what the sink says and reaches what it may.
func (s *Sender) client(sink *swanherdv1.WebhookSink) *http.Client {
	dialer := &net.Dialer{Timeout: sendTimeout, Control: func(_, address string, _ syscall.RawConn) error {
		ap, err := netip.ParseAddrPort(address)
		if err != nil {
			return fmt.Errorf("dial %s: %w", address, err)
		}
		return checkAddr(ap.Addr(), s.AllowLocal)
	}}
	cfg := &tls.Config{MinVersion: tls.VersionTLS12}
	if pem := sink.GetCaCertificates(); pem != "" {
		cfg.RootCAs = x509.NewCertPool()
		cfg.RootCAs.AppendCertsFromPEM([]byte(pem))
	}
	return &http.Client{
		Timeout:       sendTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			DialContext:            dialer.DialContext,
			TLSClientConfig:        cfg,
			ForceAttemptHTTP2:      true,
			DisableKeepAlives:      true, // an alert is rare, and clients come and go with the sinks
			DisableCompression:     true,
			MaxResponseHeaderBytes: maxAnswerHeader,
		},
	}
}

// Send sends a message once and returns the status of the answer, 0 if there was none.
// Any but 200 to 299 is an error.
func (s *Sender) Send(ctx context.Context, sink *swanherdv1.WebhookSink, key []byte, m Message) (int, error) {
	if err := CheckURL(sink.GetUrl(), s.AllowLocal); err != nil {
		return 0, fmt.Errorf("url %w", err)
	}
	body, err := m.body()
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, sendTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, sink.GetUrl(), bytes.NewReader(body))
	if err != nil {
		return 0, fmt.Errorf("make a request: %w", err)
	}
	now := time.Now()
	req.Header.Set("Content-Type", "application/cloudevents+json; charset=UTF-8")
	req.Header.Set("User-Agent", "swanherd")
	req.Header.Set("Webhook-Id", m.ID)
	req.Header.Set("Webhook-Timestamp", strconv.FormatInt(now.Unix(), 10))
	req.Header.Set("Webhook-Signature", sign(key, m.ID, now, body))
	resp, err := s.client(sink).Do(req)
	if err != nil {
		return 0, sendError(err)
	}
	defer resp.Body.Close()
	_, _ = io.CopyN(io.Discard, resp.Body, maxAnswer) // the status has come, whatever becomes of the rest
	switch {
	case resp.StatusCode >= 200 && resp.StatusCode <= 299:
		return resp.StatusCode, nil
	case resp.StatusCode >= 300 && resp.StatusCode <= 399:
		return resp.StatusCode, fmt.Errorf("answered %d, a redirect, which is not followed; give the sink the receiver's own URL", resp.StatusCode)
	}
	return resp.StatusCode, fmt.Errorf("answered %d", resp.StatusCode)
}

// sendError leaves out the URL, which may hold a secret in its path.
func sendError(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		if u.Timeout() {
			return fmt.Errorf("no answer within %s", sendTimeout)
		}
		err = u.Err
	}
	return fmt.Errorf("send: %s", strings.ToValidUTF8(err.Error(), "?"))
}
