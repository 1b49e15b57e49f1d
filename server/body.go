package server

import (
	"fmt"
	"io"
	"net/http"
	"strings"
)

const (
	// maxStranger bounds in octets what is read of a request without a valid
	// API token: enough for every call that needs none. gRPC and the REST
	// gateway hold a message whole before the guard sees who sent it.
	maxStranger = 64 << 10
	// maxBody bounds the request of a caller with one: a message of maxManifest
	// and its framing.
	maxBody = maxManifest + 64<<10
)

// body is a request's body that ends with an error at a limit.
type body struct {
	io.ReadCloser
	left int64
	err  error
}

// bounded returns the body of r, with a limit that depends on who sends it. It
// neither counts nor refuses wrong tokens: that is the guard's.
func (s *Server) bounded(r *http.Request) io.ReadCloser {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if strings.EqualFold(scheme, "Bearer") {
		if _, err := s.keeper.Authenticate(r.Context(), strings.TrimSpace(token)); err == nil {
			return &body{r.Body, maxBody, fmt.Errorf("the request is longer than %d octets; send it in parts", maxBody)}
		}
	}
	return &body{r.Body, maxStranger, fmt.Errorf("the request is longer than %d octets and has no valid API token; sign in again", maxStranger)}
}

func (b *body) Read(p []byte) (int, error) {
	if b.left < 0 {
		return 0, b.err
	}
	if int64(len(p)) > b.left+1 { // one more, to tell the limit from the end
		p = p[:b.left+1]
	}
	n, err := b.ReadCloser.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return n + int(b.left), b.err
	}
	return n, err
}
