package dashboard

import (
	"encoding/json"
	"net/http"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// sessionCookie holds the session's API token. The prefix makes browsers
// refuse it over plain HTTP, from another host, and for a part of the site.
const sessionCookie = "__Host-swanherd"

// maxLogin bounds the body of a sign-in request in octets.
const maxLogin = 4096

// signIn turns the code of a login link into a session.
type signIn struct {
	access swanherdv1.AccessServiceClient
}

func (s *signIn) login(w http.ResponseWriter, r *http.Request) {
	var body struct {
		Code string `json:"code"`
	}
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxLogin)).Decode(&body); err != nil || body.Code == "" {
		http.Error(w, `want {"code": "..."}`, http.StatusBadRequest)
		return
	}
	token, err := s.access.RedeemLoginLink(r.Context(), &swanherdv1.RedeemLoginLinkRequest{Code: body.Code})
	if err != nil {
		code, text := http.StatusForbidden, "the link was used already, or is too old; make a new one"
		if status.Code(err) == codes.Unavailable {
			code, text = http.StatusServiceUnavailable, "the controller does not answer"
		} else if status.Code(err) == codes.ResourceExhausted {
			code, text = http.StatusTooManyRequests, "too many attempts; wait a minute"
		}
		http.Error(w, text, code)
		return
	}
	cookie := newCookie(token.GetSecret())
	if token.GetExpireTime() != nil {
		cookie.Expires = token.GetExpireTime().AsTime()
	}
	http.SetCookie(w, cookie)
	w.WriteHeader(http.StatusNoContent)
}

// logout ends the session: at the controller, and in the browser.
func (s *signIn) logout(w http.ResponseWriter, r *http.Request) {
	if bearer, ok := authorization(r); ok {
		ctx := metadata.AppendToOutgoingContext(r.Context(), "authorization", bearer)
		// The cookie goes either way; a token that stays ends by itself.
		_, _ = s.access.DeleteApiToken(ctx, &swanherdv1.DeleteApiTokenRequest{Name: "apiTokens/self"})
	}
	cookie := newCookie("")
	cookie.Expires = time.Unix(1, 0)
	http.SetCookie(w, cookie)
	w.WriteHeader(http.StatusNoContent)
}

func newCookie(value string) *http.Cookie {
	return &http.Cookie{
		Name: sessionCookie, Value: value, Path: "/",
		Secure: true, HttpOnly: true, SameSite: http.SameSiteStrictMode,
	}
}

// authorization is the session's credential as the API wants it.
func authorization(r *http.Request) (string, bool) {
	c, err := r.Cookie(sessionCookie)
	if err != nil || c.Value == "" {
		return "", false
	}
	return "Bearer " + c.Value, true
}
