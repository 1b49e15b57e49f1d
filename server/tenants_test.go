package server_test

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// Who is bound to one network neither sees what is in another, nor learns from
// any method whether something is there. Every method of every operator service
// is tried, so that a new one without a check fails.
func TestTenantsDoNotSeeEachOther(t *testing.T) {
	for _, m := range sampledMethods(t) {
		if m.Parent().Name() == "EnrollmentService" || m.Name() == "RedeemLoginLink" {
			continue // nobody is signed in there
		}
		t.Run(string(m.Parent().Name())+"/"+string(m.Name()), func(t *testing.T) {
			t.Parallel()
			c := startController(t) // of its own, as some methods delete
			own, other := c.populated("networks/alpha"), c.populated("networks/beta")
			token, err := c.access().CreateApiToken(t.Context(), &swanherdv1.CreateApiTokenRequest{ApiToken: &swanherdv1.ApiToken{
				Role: swanherdv1.Role_ROLE_ADMIN, Networks: []string{own.network},
			}})
			if err != nil {
				t.Fatal(err)
			}
			x := tenant{TB: t, m: m, conn: c.dial(token.GetSecret())}
			x.namesNothingOf(own, other)
			x.seesNothing(own, other)
			x.foreign(c.dial(c.token), other)
		})
	}
}

// tenant is somebody bound to networks/alpha who tries one method.
type tenant struct {
	testing.TB
	m    protoreflect.MethodDescriptor
	conn *grpc.ClientConn
}

func (x tenant) call(req proto.Message) (proto.Message, error) {
	return call(x.Context(), x, x.conn, x.m, req)
}

// foreign asks for what is in the other network: the answer is the same as for
// what is not, and a good one only to who may.
func (x tenant) foreign(admin *grpc.ClientConn, other *samples) {
	req := other.request(x, x.m)
	if !strings.Contains(prototext.Format(req), "beta") {
		return // not about a network; what it shows was looked at
	}
	nothing := proto.Clone(req)
	renamed(nothing.ProtoReflect(), func(s string) string {
		if i := strings.LastIndexByte(s, '/'); strings.Count(s, "/") > 1 {
			return s[:i] + "/nothing"
		}
		return strings.Replace(s, "beta", "gamma", 1)
	})
	_, err := x.call(req)
	if status.Code(err) != codes.PermissionDenied {
		x.Errorf("of another network: %v, want PERMISSION_DENIED", err)
	}
	_, none := x.call(nothing)
	if a, b := told(err), told(none); a != b {
		x.Errorf("what is there and what is not are told apart:\n%s\n%s", a, b)
	}
	// A profile in use is not deleted; that it is in use is an answer about it.
	if _, err := call(x.Context(), x, admin, x.m, req); err != nil && status.Code(err) != codes.FailedPrecondition {
		x.Errorf("the sample proves nothing, as it fails for the administrator too: %v", err)
	}
}

// seesNothing asks for all networks, or for what is of none.
func (x tenant) seesNothing(own, other *samples) {
	req := own.request(x, x.m)
	if parent := req.ProtoReflect().Descriptor().Fields().ByName("parent"); parent != nil {
		req.ProtoReflect().Set(parent, protoreflect.ValueOfString("networks/-"))
	} else if strings.Contains(prototext.Format(req), own.network) {
		return
	}
	resp, err := x.call(req)
	if text := prototext.Format(resp) + fmt.Sprint(err); strings.Contains(text, "beta") || strings.Contains(text, other.ids["api_token"]) {
		x.Errorf("of all networks it shows another one's: %s", text)
	}
}

// namesNothingOf puts names of the other network's things into each text of a
// request about the own network: it makes no difference whether they are there.
func (x tenant) namesNothingOf(own, other *samples) {
	there := []string{"networks/beta", "networks/beta/sites/berlin", "networks/beta/profiles/default", "networks/beta/meshes/all", "networks/beta/edges/berlin"}
	ask := func(names []string, network string) (out, paths []string) {
		text := func(s string) string { return strings.Replace(s, "beta", network, 1) }
		values := func(d protoreflect.FieldDescriptor) []badValue { return foreignNames(d, names, text) }
		mutate(own.request(x, x.m), values, func(bad mutation) {
			_, err := x.call(bad.req)
			out = append(out, told(err))
			paths = append(paths, bad.path+" "+bad.what)
		})
		return out, paths
	}
	answers, paths := ask(there, "beta")
	absent, _ := ask(there, "gamma")
	for i := range answers {
		created := answers[i] == "OK" && strings.HasPrefix(absent[i], "AlreadyExists networks/alpha/")
		if answers[i] != absent[i] && !created {
			x.Errorf("%s: what is there and what is not are told apart:\n%s\n%s", paths[i], answers[i], absent[i])
		}
	}
}

// foreignNames are values of a field that name other networks' things.
func foreignNames(d protoreflect.FieldDescriptor, names []string, text func(string) string) []badValue {
	if d.IsMap() || d.Kind() != protoreflect.StringKind || d.Name() == "etag" { // wrong whatever it names
		return nil
	}
	var out []badValue
	for _, name := range names {
		v := protoreflect.ValueOfString(text(name))
		out = append(out, badValue{name, func(m protoreflect.Message, d protoreflect.FieldDescriptor) {
			if d.IsList() {
				m.Mutable(d).List().Append(v)
			} else {
				m.Set(d, v)
			}
		}})
	}
	return out
}

// renamed changes every text of a message that names a network.
func renamed(m protoreflect.Message, f func(string) string) {
	renamedFields(m, func(text string) string {
		if strings.Contains(text, "beta") {
			return f(text)
		}
		return text
	})
}

// renamedFields changes every text of a message that is a field of its own.
func renamedFields(m protoreflect.Message, f func(string) string) {
	m.Range(func(d protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case d.Kind() == protoreflect.StringKind && !d.IsList() && !d.IsMap():
			m.Set(d, protoreflect.ValueOfString(f(v.String())))
		case d.Message() != nil && !d.IsList() && !d.IsMap():
			renamedFields(m.Mutable(d).Message(), f)
		}
		return true
	})
}

var otherNames = regexp.MustCompile(`networks/(beta|gamma)[\w/-]*`)

// told is all that an answer says, but for the names that were asked for.
func told(err error) string {
	st := status.Convert(err)
	text := st.Code().String() + " " + st.Message()
	for _, d := range st.Details() {
		text += " " + prototext.MarshalOptions{}.Format(d.(proto.Message))
	}
	text = otherNames.ReplaceAllString(text, "OTHER")
	return strings.Join(strings.Fields(text), " ") // prototext varies its spaces
}
