package api

import (
	"context"
	"encoding/json"
	"net/http"
	"strconv"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/swanherd/swanherd/proto/openapi"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// NewREST returns the REST form of the operator services, /v1/ and
// /openapi.json, which calls them over conn.
func NewREST(ctx context.Context, conn *grpc.ClientConn) (http.Handler, error) {
	gateway := runtime.NewServeMux(
		runtime.WithMarshalerOption(runtime.MIMEWildcard, &runtime.JSONPb{
			MarshalOptions: protojson.MarshalOptions{EmitDefaultValues: true},
		}),
		runtime.WithErrorHandler(problem),
		runtime.WithRoutingErrorHandler(routingProblem),
		// Authorization passes by itself; the default would also let callers set
		// metadata of their choice.
		runtime.WithIncomingHeaderMatcher(func(string) (string, bool) { return "", false }),
		runtime.WithOutgoingHeaderMatcher(func(string) (string, bool) { return "", false }),
	)
	for _, register := range []func(context.Context, *runtime.ServeMux, *grpc.ClientConn) error{
		swanherdv1.RegisterTopologyServiceHandler,
		swanherdv1.RegisterFleetServiceHandler,
		swanherdv1.RegisterAccessServiceHandler,
	} {
		if err := register(ctx, gateway, conn); err != nil {
			return nil, err
		}
	}
	mux := http.NewServeMux()
	mux.Handle("/v1/", gateway)
	mux.HandleFunc("GET /openapi.json", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(openapi.JSON) // a client that left is none of our errors
	})
	return mux, nil
}

// problemDetails is the body of an error (RFC 9457, Section 3).
type problemDetails struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail"`
	// Code is the gRPC code, `INVALID_ARGUMENT`.
	Code string `json:"code"`
	// Violations name the fields that are wrong.
	Violations []problemViolation `json:"violations,omitempty"`
}

type problemViolation struct {
	Field       string `json:"field"`
	Description string `json:"description"`
}

func problem(_ context.Context, _ *runtime.ServeMux, _ runtime.Marshaler, w http.ResponseWriter, _ *http.Request, err error) {
	st := status.Convert(err)
	writeProblem(w, httpStatus(st.Code()), st)
}

// routingProblem is for paths and methods that the API does not have.
func routingProblem(_ context.Context, _ *runtime.ServeMux, _ runtime.Marshaler, w http.ResponseWriter, r *http.Request, httpCode int) {
	c := codes.NotFound
	if httpCode == http.StatusMethodNotAllowed {
		c = codes.Unimplemented
	} else if httpCode == http.StatusBadRequest {
		c = codes.InvalidArgument
	}
	writeProblem(w, httpCode, status.Newf(c, "the API has no %s %s; see /openapi.json", r.Method, r.URL.Path))
}

// httpStatus maps codes as google.rpc.Code documents it, but for a failed
// precondition, which is a conflict with the state of the resource rather than
// a bad request.
func httpStatus(c codes.Code) int {
	if c == codes.FailedPrecondition {
		return http.StatusConflict
	}
	return runtime.HTTPStatusFromCode(c)
}

func writeProblem(w http.ResponseWriter, httpCode int, st *status.Status) {
	p := problemDetails{
		Type:   "about:blank",
		Title:  http.StatusText(httpCode),
		Status: httpCode,
		Detail: st.Message(),
		Code:   codeName(st.Code()),
	}
	for _, d := range st.Details() {
		switch d := d.(type) {
		case *errdetails.BadRequest:
			for _, v := range d.GetFieldViolations() {
				p.Violations = append(p.Violations, problemViolation{v.GetField(), v.GetDescription()})
			}
		case *errdetails.RetryInfo:
			w.Header().Set("Retry-After", strconv.Itoa(max(1, int(d.GetRetryDelay().AsDuration().Seconds()))))
		}
	}
	if httpCode == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", "Bearer")
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(httpCode)
	_ = json.NewEncoder(w).Encode(p) // a client that left is none of our errors
}

// codeName is the code as google.rpc.Code spells it.
func codeName(c codes.Code) string { return code.Code(c).String() }
