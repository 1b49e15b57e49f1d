package server_test

import (
	"encoding/json"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"google.golang.org/genproto/googleapis/api/annotations"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// The REST form keeps what the services promise: whatever is in a path, a
// parameter or a body, the answer is no 5xx, and an error is a problem (RFC 9457)
// that names the field.
func TestEveryFieldOfEveryRESTRequestMayBeBad(t *testing.T) {
	for _, m := range sampledMethods(t) {
		rule, _ := proto.GetExtension(m.Options(), annotations.E_Http).(*annotations.HttpRule)
		if rule == nil || m.IsStreamingServer() {
			continue
		}
		t.Run(string(m.Name()), func(t *testing.T) {
			t.Parallel()
			c := startController(t)
			s := c.populated("networks/tenant")
			good := s.request(t, m)
			for _, body := range []string{"{", "[]", "null", "5", `"x"`, `{"nothing":1}`, `{"name":5}`, `{"labels":[1]}`, `{"prefixes":{"a":1}}`, strings.Repeat("[", 20000), "\xff\xfe"} {
				method, path, _ := restOf(t, m, rule, good)
				c.problem(t, method, path, body)
			}
			for _, query := range []string{"?nothing=1", "?pageSize=x", "?name.x=1", "?parent=networks/other", "?updateMask=%FF", "?=1", "?a.b.c.d=1"} {
				method, path, body := restOf(t, m, rule, good)
				base, _, _ := strings.Cut(path, "?")
				c.problem(t, method, base+query, body)
			}
			method, path, body := restOf(t, m, rule, good)
			c.problem(t, method, strings.Replace(path, "tenant", "%ff%00", 1), body)
			mutate(good, badValues, func(bad mutation) {
				if method, path, body := restOf(t, m, rule, bad.req); method != "" && len(path) < 8000 {
					c.problem(t, method, path, body)
				}
			})
		})
	}
}

// problem makes a request and checks that an error is a well-formed problem.
func (c *controller) problem(t *testing.T, method, path, body string) {
	t.Helper()
	resp, text := c.rest(method, path, c.token, body)
	if resp.StatusCode < 400 {
		return
	}
	what := method + " " + path[:min(200, len(path))] + " " + body[:min(100, len(body))]
	var p struct {
		Type, Title, Detail, Code string
		Status                    int
		Violations                []struct{ Field, Description string }
	}
	if err := json.Unmarshal([]byte(text), &p); err != nil || resp.Header.Get("Content-Type") != "application/problem+json" {
		t.Errorf("%s: %d is no problem: %q", what, resp.StatusCode, text[:min(200, len(text))])
		return
	}
	if resp.StatusCode >= 500 && resp.StatusCode != http.StatusNotImplemented || p.Status != resp.StatusCode || p.Code == "" || p.Title == "" || p.Type == "" {
		t.Errorf("%s: %d %s", what, resp.StatusCode, text)
	}
	if p.Code == "INVALID_ARGUMENT" && (len(p.Violations) == 0 || p.Violations[0].Field == "") && !strings.Contains(p.Detail, "openapi.json") {
		t.Errorf("%s: names no field: %s", what, text)
	}
}

var pathVariable = regexp.MustCompile(`\{([\w.]+)(?:=[^}]*)?\}`)

// restOf is the REST form of a request. The method is empty when JSON cannot say it.
func restOf(t *testing.T, m protoreflect.MethodDescriptor, rule *annotations.HttpRule, req proto.Message) (method, path, body string) {
	t.Helper()
	template := ""
	switch p := rule.GetPattern().(type) {
	case *annotations.HttpRule_Get:
		method, template = http.MethodGet, p.Get
	case *annotations.HttpRule_Post:
		method, template = http.MethodPost, p.Post
	case *annotations.HttpRule_Patch:
		method, template = http.MethodPatch, p.Patch
	case *annotations.HttpRule_Delete:
		method, template = http.MethodDelete, p.Delete
	default:
		t.Fatalf("%s: the test does not know its rule %v", fullName(m), rule)
	}
	rest := proto.Clone(req).ProtoReflect()
	path = pathVariable.ReplaceAllStringFunc(template, func(v string) string {
		name := pathVariable.FindStringSubmatch(v)[1]
		at := rest
		for strings.Contains(name, ".") {
			var head string
			head, name, _ = strings.Cut(name, ".")
			at = at.Mutable(at.Descriptor().Fields().ByName(protoreflect.Name(head))).Message()
		}
		f := at.Descriptor().Fields().ByName(protoreflect.Name(name))
		segments := strings.Split(at.Get(f).String(), "/")
		at.Clear(f)
		for i := range segments {
			segments[i] = url.PathEscape(segments[i])
		}
		return strings.Join(segments, "/")
	})
	sent := rest
	if rule.GetBody() != "" && rule.GetBody() != "*" {
		f := rest.Descriptor().Fields().ByName(protoreflect.Name(rule.GetBody()))
		sent = rest.Mutable(f).Message()
		defer rest.Clear(f)
	}
	if rule.GetBody() != "" {
		b, err := protojson.Marshal(sent.Interface())
		if err != nil {
			return "", "", ""
		}
		body = string(b)
	}
	if rule.GetBody() != "*" {
		path += query(rest, rule.GetBody())
	}
	return method, path, body
}

// query is what is in neither path nor body, as parameters.
func query(m protoreflect.Message, body string) string {
	values := url.Values{}
	m.Range(func(d protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		if string(d.Name()) != body && d.Message() == nil && !d.IsList() && !d.IsMap() {
			values.Set(d.JSONName(), v.String())
		}
		return true
	})
	if len(values) == 0 {
		return ""
	}
	return "?" + values.Encode()
}

// The document that the controller serves has every method with a REST form, and
// what its errors are.
func TestOpenAPIDescribesEveryMethod(t *testing.T) {
	c := startController(t)
	resp, body := c.rest("GET", "/openapi.json", "", "")
	var doc struct {
		Paths map[string]map[string]struct {
			OperationID string `json:"operationId"`
			Responses   map[string]struct {
				Schema struct {
					Ref string `json:"$ref"`
				}
			} `json:"responses"`
		} `json:"paths"`
		Definitions map[string]struct{ Properties map[string]any } `json:"definitions"`
	}
	if err := json.Unmarshal([]byte(body), &doc); err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%d, %v", resp.StatusCode, err)
	}
	described := map[string]string{}
	for _, methods := range doc.Paths {
		for _, op := range methods {
			described[op.OperationID] = op.Responses["default"].Schema.Ref
		}
	}
	for _, m := range publicMethods(t) {
		if rule, _ := proto.GetExtension(m.Options(), annotations.E_Http).(*annotations.HttpRule); rule == nil {
			continue
		}
		if ref := described[string(m.Parent().Name())+"_"+string(m.Name())]; ref != "#/definitions/v1Problem" {
			t.Errorf("%s: error is described by %q", fullName(m), ref)
		}
	}
	if doc.Definitions["v1Problem"].Properties["violations"] == nil || doc.Definitions["v1Site"].Properties["displayName"] == nil {
		t.Error("the document lacks the violations of a problem, or has no names of JSON")
	}
}
