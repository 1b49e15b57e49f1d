package reconcile

import (
	"errors"
	"strings"

	"buf.build/go/protovalidate"
	"google.golang.org/protobuf/proto"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// How errors name the settings and the trust bundle of an intent.
const (
	settingsName = "settings"
	trustName    = "trust"
)

// Errors are what is wrong with an intent, each with the resource and the path
// of the field in it.
type Errors []*swanherdv1.ResourceError

func (e *Errors) add(resource, field, message string) {
	*e = append(*e, &swanherdv1.ResourceError{Resource: resource, FieldPath: field, Message: message})
}

// Error lists all of them, one a line.
func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i, r := range e {
		for _, part := range []string{r.GetResource(), r.GetFieldPath()} {
			if part != "" {
				lines[i] += part + ": "
			}
		}
		lines[i] += r.GetMessage()
	}
	return strings.Join(lines, "\n")
}

// check holds a resource against the rules in its proto.
func (e *Errors) check(resource string, m proto.Message) {
	err := protovalidate.Validate(m)
	var violations *protovalidate.ValidationError
	switch {
	case err == nil:
	case errors.As(err, &violations):
		for _, v := range violations.Violations {
			e.add(resource, protovalidate.FieldPathString(v.Proto.GetField()), v.Proto.GetMessage())
		}
	default:
		e.add(resource, "", "check rules: "+err.Error())
	}
}
