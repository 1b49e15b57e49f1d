package access

import (
	"errors"

	"buf.build/go/protovalidate"
)

// Violations returns what a validator found wrong, with field paths. An error
// that is none about the message is a violation of the message as a whole.
func Violations(err error) []Violation {
	if err == nil {
		return nil
	}
	var invalid *protovalidate.ValidationError
	if !errors.As(err, &invalid) {
		return []Violation{{Message: err.Error()}}
	}
	var out []Violation
	for _, v := range invalid.Violations {
		message := v.Proto.GetMessage()
		if message == "" {
			message = "violates " + v.Proto.GetRuleId()
		}
		out = append(out, Violation{Field: protovalidate.FieldPathString(v.Proto.GetField()), Message: message})
	}
	return out
}
