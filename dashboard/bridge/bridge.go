package bridge

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// ContentType is the only form of gRPC-Web that is spoken: binary protobuf.
const ContentType = "application/grpc-web+proto"

// maxRequest bounds a request message in octets; those of a browser are small.
const maxRequest = 1 << 20

const (
	frameHeader  = 5    // one octet of flags, four of length
	flagTrailers = 0x80 // the frame holds trailers
)

// Config says where calls go and which are let through.
type Config struct {
	// Conn reaches the controller.
	Conn grpc.ClientConnInterface
	// Methods are full method names, `/swanherd.v1.FleetService/WatchFleet`.
	Methods []string
	// Authorization returns the value of the authorization header for a
	// request's session, or false when there is none.
	Authorization func(*http.Request) (string, bool)
}

// Bridge is an http.Handler for gRPC-Web calls. The path is the method's.
type Bridge struct {
	conn          grpc.ClientConnInterface
	methods       map[string]bool
	authorization func(*http.Request) (string, bool)
}

// New returns a bridge.
func New(c Config) *Bridge {
	b := &Bridge{conn: c.Conn, methods: map[string]bool{}, authorization: c.Authorization}
	for _, m := range c.Methods {
		b.methods[m] = true
	}
	return b
}

// ServeHTTP answers one call. Errors of the call are in the trailers, as
// gRPC-Web wants; HTTP errors mean that the request was not one.
func (b *Bridge) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost || r.Header.Get("Content-Type") != ContentType {
		http.Error(w, "want POST with content type "+ContentType, http.StatusUnsupportedMediaType)
		return
	}
	if !b.methods[r.URL.Path] {
		http.NotFound(w, r)
		return
	}
	h := w.Header()
	h.Set("Content-Type", ContentType)
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no") // a buffering proxy would hold the stream back
	writeTrailers(w, b.call(w, r))
}

func (b *Bridge) call(w http.ResponseWriter, r *http.Request) error {
	request, err := readMessage(r.Body)
	if err != nil {
		return err
	}
	authorization, ok := b.authorization(r)
	if !ok {
		return status.Error(codes.Unauthenticated, "not signed in")
	}
	ctx := metadata.AppendToOutgoingContext(r.Context(), "authorization", authorization)
	stream, err := b.conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, r.URL.Path, grpc.ForceCodec(raw{}))
	if err != nil {
		return err
	}
	if err := stream.SendMsg(&request); err != nil && !errors.Is(err, io.EOF) {
		return err // io.EOF: the status comes with RecvMsg
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	return relay(w, stream)
}

// relay passes messages on, each flushed, until the stream ends.
func relay(w http.ResponseWriter, stream grpc.ClientStream) error {
	flusher := http.NewResponseController(w)
	for {
		var message []byte
		err := stream.RecvMsg(&message)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := writeFrame(w, 0, message); err != nil {
			return err
		}
		if err := flusher.Flush(); err != nil {
			return err
		}
	}
}

func readMessage(body io.Reader) ([]byte, error) {
	var header [frameHeader]byte
	if _, err := io.ReadFull(body, header[:]); err != nil {
		return nil, status.Error(codes.InvalidArgument, "the request's frame is shorter than its header")
	}
	size := binary.BigEndian.Uint32(header[1:])
	if header[0] != 0 || size > maxRequest {
		return nil, status.Errorf(codes.InvalidArgument, "the request's frame is compressed or longer than %d octets", maxRequest)
	}
	// Read as it comes: the length is the sender's claim.
	message, err := io.ReadAll(io.LimitReader(body, int64(size)))
	if err != nil || uint32(len(message)) != size {
		return nil, status.Error(codes.InvalidArgument, "the request's message is shorter than its frame says")
	}
	return message, nil
}

func writeFrame(w io.Writer, flags byte, payload []byte) error {
	var header [frameHeader]byte
	header[0] = flags
	binary.BigEndian.PutUint32(header[1:], uint32(len(payload)))
	if _, err := w.Write(header[:]); err != nil {
		return err
	}
	_, err := w.Write(payload)
	return err
}

func writeTrailers(w io.Writer, err error) {
	st := status.Convert(err)
	var b strings.Builder
	fmt.Fprintf(&b, "grpc-status: %d\r\ngrpc-message: %s\r\n", st.Code(), url.PathEscape(st.Message()))
	// The viewer may be gone; there is nobody to tell.
	_ = writeFrame(w, flagTrailers, []byte(b.String()))
}

// raw passes messages through undecoded.
type raw struct{}

func (raw) Name() string { return "proto" }

func (raw) Marshal(v any) ([]byte, error) { return *v.(*[]byte), nil }

func (raw) Unmarshal(data []byte, v any) error {
	*v.(*[]byte) = append([]byte(nil), data...)
	return nil
}
