package api

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"github.com/grpc-ecosystem/grpc-gateway/v2/utilities"
	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/swanherd/swanherd/proto/openapi"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/access"
)

// StaleHeader is the header of an answer that was read, or of a stream that began, while
// the store did not answer: the time since when it may be old (RFC 3339).
const StaleHeader = "swanherd-stale-since"

// parseStrictly is for all: package runtime has one parser of queries, which no option
// of another server may set while requests are served.
var parseStrictly = sync.OnceFunc(func() { runtime.NewServeMux(runtime.SetQueryParameterParser(strictQuery{})) })

// NewREST returns the REST form of the operator services, /v1/ and
// /openapi.json, which calls them over conn.
func NewREST(ctx context.Context, conn *grpc.ClientConn) (http.Handler, error) {
	parseStrictly()
	gateway := runtime.NewServeMux(
		runtime.WithMarshalerOption(runtime.MIMEWildcard, &runtime.JSONPb{
			MarshalOptions: protojson.MarshalOptions{EmitDefaultValues: true},
		}),
		runtime.WithErrorHandler(problem),
		runtime.WithRoutingErrorHandler(routingProblem),
		// Authorization passes by itself; the default would also let callers set
		// metadata of their choice.
		runtime.WithIncomingHeaderMatcher(func(name string) (string, bool) {
			return access.BreakGlassHeader, strings.EqualFold(name, access.BreakGlassHeader)
		}),
		runtime.WithOutgoingHeaderMatcher(func(name string) (string, bool) { return StaleHeader, name == StaleHeader }),
	)
	for _, register := range []func(context.Context, *runtime.ServeMux, *grpc.ClientConn) error{
		swanherdv1.RegisterTopologyServiceHandler,
		swanherdv1.RegisterFleetServiceHandler,
		swanherdv1.RegisterAccessServiceHandler,
		swanherdv1.RegisterCertificateServiceHandler,
		swanherdv1.RegisterDeviceServiceHandler,
		swanherdv1.RegisterRolloutServiceHandler,
		swanherdv1.RegisterJobServiceHandler,
		swanherdv1.RegisterAlertServiceHandler,
		swanherdv1.RegisterKeyServiceHandler,
		swanherdv1.RegisterRoleBindingServiceHandler,
		swanherdv1.RegisterUserServiceHandler,
		swanherdv1.RegisterSignInServiceHandler,
		swanherdv1.RegisterHistoryServiceHandler,
		swanherdv1.RegisterClusterServiceHandler,
	} {
		if err := register(ctx, gateway, conn); err != nil {
			return nil, err
		}
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/v1/", func(w http.ResponseWriter, r *http.Request) {
		if !utf8.ValidString(r.URL.Path) { // the gateway would take it for a text
			writeProblem(w, http.StatusNotFound, status.New(codes.NotFound, "the path is not UTF-8"))
			return
		}
		gateway.ServeHTTP(w, r)
	})
	mux.HandleFunc("GET /openapi.json", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(openapi.JSON) // a client that left is none of our errors
	})
	return mux, nil
}

// strictQuery refuses parameters that the method does not have. The gateway by
// itself ignores them, and so a filter whose name is misspelt.
type strictQuery struct{ runtime.DefaultQueryParser }

func (p strictQuery) Parse(m proto.Message, values url.Values, filter *utilities.DoubleArray) error {
	for name, texts := range values {
		if !hasField(m.ProtoReflect().Descriptor(), strings.Split(name, ".")) {
			return fmt.Errorf("the method has no parameter %q; see /openapi.json", name)
		}
		if slices.ContainsFunc(texts, func(s string) bool { return !utf8.ValidString(s) }) {
			return fmt.Errorf("parameter %q is not UTF-8", name)
		}
	}
	return p.DefaultQueryParser.Parse(m, values, filter)
}

func hasField(d protoreflect.MessageDescriptor, path []string) bool {
	if d == nil {
		return false
	}
	head, _, _ := strings.Cut(path[0], "[") // of a map, as in labels[region]
	f := cmp.Or(d.Fields().ByJSONName(head), d.Fields().ByName(protoreflect.Name(head)))
	return f != nil && (len(path) == 1 || hasField(f.Message(), path[1:]))
}

func problem(_ context.Context, _ *runtime.ServeMux, _ runtime.Marshaler, w http.ResponseWriter, _ *http.Request, err error) {
	st := status.Convert(err)
	writeProblem(w, httpStatus(st.Code()), st, undecodable(st)...)
}

// namedField is the field in what the gateway says of a body, a parameter or a
// path that it cannot decode.
var namedField = regexp.MustCompile(`(?:field|parameter:?) "?([\w.]+)"?`)

// undecodable is the field that a refusal by the gateway is about; refusals by
// the services have it already.
func undecodable(st *status.Status) []*swanherdv1.Problem_FieldProblem {
	if st.Code() != codes.InvalidArgument || len(st.Details()) > 0 {
		return nil
	}
	field := "body"
	if m := namedField.FindStringSubmatch(st.Message()); m != nil {
		field = m[1]
	}
	return []*swanherdv1.Problem_FieldProblem{{Field: field, Description: st.Message()}}
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

func writeProblem(w http.ResponseWriter, httpCode int, st *status.Status, violations ...*swanherdv1.Problem_FieldProblem) {
	p := &swanherdv1.Problem{
		Type:   "about:blank",
		Title:  http.StatusText(httpCode),
		Status: int32(httpCode),
		Detail: st.Message(),
		Code:   codeName(st.Code()),

		Violations: violations,
	}
	for _, d := range st.Details() {
		switch d := d.(type) {
		case *errdetails.BadRequest:
			for _, v := range d.GetFieldViolations() {
				p.Violations = append(p.Violations, &swanherdv1.Problem_FieldProblem{Field: jsonPath(v.GetField()), Description: v.GetDescription()})
			}
		case *errdetails.PreconditionFailure:
			for _, v := range d.GetViolations() {
				p.Obstacles = append(p.Obstacles, &swanherdv1.Problem_Obstacle{Resource: v.GetSubject(), Description: v.GetDescription()})
			}
		case *errdetails.ErrorInfo:
			p.Reason = d.GetReason()
		case *errdetails.RetryInfo:
			w.Header().Set("Retry-After", strconv.Itoa(max(1, int(d.GetRetryDelay().AsDuration().Seconds()))))
		}
	}
	if httpCode == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", "Bearer")
	}
	b, err := protojson.Marshal(p)
	if err != nil { // what it repeats of a request is no text
		b = []byte("{}")
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(httpCode)
	_, _ = w.Write(b) // a client that left is none of our errors
}

// codeName is the code as google.rpc.Code spells it.
func codeName(c codes.Code) string { return code.Code(c).String() }

// jsonPath is a field path in the names of JSON: `site.display_name` becomes
// `site.displayName`. What is quoted in brackets is a key, and stays.
func jsonPath(path string) string {
	var b strings.Builder
	quoted, up := false, false
	for _, r := range path {
		switch {
		case r == '"':
			quoted = !quoted
			b.WriteRune(r)
		case r == '_' && !quoted:
			up = true
			continue
		case up:
			b.WriteRune(unicode.ToUpper(r))
		default:
			b.WriteRune(r)
		}
		up = false
	}
	return b.String()
}
