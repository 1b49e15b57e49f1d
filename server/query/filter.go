package query

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"go.einride.tech/aip/filtering"
	expr "google.golang.org/genproto/googleapis/api/expr/v1alpha1"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// A Filter says which messages of a list are wanted. The zero Filter wants all.
type Filter struct{ test test }

type test func(protoreflect.Message) bool

// Matches says whether the message, of the type that the filter was parsed for,
// is wanted.
func (f Filter) Matches(m protoreflect.Message) bool { return f.test == nil || f.test(m) }

// ParseFilter parses a filter for messages of that type. The error says what is
// wrong with it.
func ParseFilter(text string, d protoreflect.MessageDescriptor) (Filter, error) {
	if strings.TrimSpace(text) == "" {
		return Filter{}, nil
	}
	var p filtering.Parser
	p.Init(text)
	parsed, err := p.Parse()
	if err != nil {
		return Filter{}, fmt.Errorf("is no filter: %s; see AIP-160", cause(err))
	}
	t, err := compile(parsed.GetExpr(), d)
	return Filter{t}, err
}

// cause is the innermost of the errors of the parser, which wraps each in the
// name of every rule that it was in.
func cause(err error) string {
	for inner := errors.Unwrap(err); inner != nil; inner = errors.Unwrap(err) {
		err = inner
	}
	text := err.Error()
	return clip(text[strings.LastIndex(text, "\n")+1:])
}

func compile(e *expr.Expr, d protoreflect.MessageDescriptor) (test, error) {
	call := e.GetCallExpr()
	if call == nil {
		if names, ok := member(e); ok {
			return nil, fmt.Errorf("%q is compared with nothing; write a field, an operator and a value", clip(strings.Join(names, ".")))
		}
		return nil, errors.New("a value is compared with nothing; write a field, an operator and a value")
	}
	switch call.GetFunction() {
	case filtering.FunctionAnd, filtering.FunctionFuzzyAnd, filtering.FunctionOr, filtering.FunctionNot:
		return compileLogic(call, d)
	case filtering.FunctionHas, filtering.FunctionEquals, filtering.FunctionNotEquals, filtering.FunctionLessThan,
		filtering.FunctionLessEquals, filtering.FunctionGreaterThan, filtering.FunctionGreaterEquals:
		return compileRestriction(call, d)
	}
	return nil, fmt.Errorf("there is no function %q in filters", clip(call.GetFunction()))
}

func compileLogic(call *expr.Expr_Call, d protoreflect.MessageDescriptor) (test, error) {
	var parts []test
	for _, arg := range call.GetArgs() {
		t, err := compile(arg, d)
		if err != nil {
			return nil, err
		}
		parts = append(parts, t)
	}
	switch call.GetFunction() {
	case filtering.FunctionNot:
		return func(m protoreflect.Message) bool { return !parts[0](m) }, nil
	case filtering.FunctionOr:
		return func(m protoreflect.Message) bool { return parts[0](m) || parts[1](m) }, nil
	default:
		return func(m protoreflect.Message) bool { return parts[0](m) && parts[1](m) }, nil
	}
}

// compileRestriction compiles a field, an operator and a value.
func compileRestriction(call *expr.Expr_Call, d protoreflect.MessageDescriptor) (test, error) {
	names, ok := member(call.GetArgs()[0])
	if !ok {
		return nil, fmt.Errorf("what stands before %q is no field", call.GetFunction())
	}
	p, err := resolve(d, names)
	if err != nil {
		return nil, err
	}
	text, ok := literal(call.GetArgs()[1])
	if !ok {
		return nil, fmt.Errorf("%s is compared with something that is no value", p.text)
	}
	if call.GetFunction() == filtering.FunctionHas {
		return compileHas(p, text)
	}
	if p.many || p.leaf().field.IsMap() && p.leaf().key == nil {
		return nil, fmt.Errorf("%s may have many values; use : to ask for one of them", p.text)
	}
	accept, err := operator(call.GetFunction(), p.value(), text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", p.text, err)
	}
	absent := call.GetFunction() == filtering.FunctionNotEquals
	return func(m protoreflect.Message) bool {
		return p.each(m, func(v protoreflect.Value, set bool) bool {
			if !set && (p.leaf().key != nil || p.value().Message() != nil) {
				return absent // there is nothing to compare
			}
			return accept(v)
		})
	}, nil
}

// compileHas compiles the operator `:`.
func compileHas(p path, text string) (test, error) {
	leaf := p.leaf()
	switch {
	case text == "*":
		return func(m protoreflect.Message) bool {
			return any(p, m, func(v protoreflect.Value, set bool) bool {
				return set && (!leaf.field.IsMap() || leaf.key != nil || v.Map().Len() > 0)
			})
		}, nil
	case leaf.field.IsMap() && leaf.key == nil:
		key := protoreflect.ValueOfString(text).MapKey()
		return func(m protoreflect.Message) bool {
			return any(p, m, func(v protoreflect.Value, _ bool) bool { return v.Map().Has(key) })
		}, nil
	case p.value().Kind() == protoreflect.StringKind && !p.many:
		part := wildcard("*" + strings.ToLower(text) + "*")
		return func(m protoreflect.Message) bool {
			return any(p, m, func(v protoreflect.Value, set bool) bool {
				return set && part.MatchString(strings.ToLower(v.String()))
			})
		}, nil
	}
	accept, err := operator(filtering.FunctionEquals, p.value(), text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", p.text, err)
	}
	return func(m protoreflect.Message) bool {
		return any(p, m, func(v protoreflect.Value, _ bool) bool { return accept(v) })
	}, nil
}

// any says whether f is true of some value at the path.
func any(p path, m protoreflect.Message, f func(protoreflect.Value, bool) bool) bool {
	return !p.each(m, func(v protoreflect.Value, set bool) bool { return !f(v, set) })
}

// operator is what a comparison accepts.
func operator(function string, d protoreflect.FieldDescriptor, text string) (func(protoreflect.Value) bool, error) {
	if !comparable(d) {
		return nil, errors.New("is no single value; name a field of it, or ask with :* whether it is set")
	}
	equality := function == filtering.FunctionEquals || function == filtering.FunctionNotEquals
	if d.Kind() == protoreflect.StringKind && equality && strings.Contains(text, "*") {
		pattern := wildcard(text)
		return func(v protoreflect.Value) bool {
			return pattern.MatchString(v.String()) == (function == filtering.FunctionEquals)
		}, nil
	}
	want, err := parse(d, text)
	if err != nil {
		return nil, err
	}
	return func(v protoreflect.Value) bool {
		c := compare(d, v, want)
		switch function {
		case filtering.FunctionEquals:
			return c == 0
		case filtering.FunctionNotEquals:
			return c != 0
		case filtering.FunctionLessThan:
			return c < 0
		case filtering.FunctionLessEquals:
			return c <= 0
		case filtering.FunctionGreaterThan:
			return c > 0
		default:
			return c >= 0
		}
	}, nil
}

// wildcard matches texts in which each * of the pattern is anything. The
// expression is matched in linear time.
func wildcard(pattern string) *regexp.Regexp {
	parts := strings.Split(pattern, "*")
	for i := range parts {
		parts[i] = regexp.QuoteMeta(parts[i])
	}
	return regexp.MustCompile("(?s)^" + strings.Join(parts, ".*") + "$")
}

// member is the names of an expression that names a field.
func member(e *expr.Expr) ([]string, bool) {
	if id := e.GetIdentExpr(); id != nil {
		return []string{id.GetName()}, true
	}
	if sel := e.GetSelectExpr(); sel != nil {
		names, ok := member(sel.GetOperand())
		return append(names, sel.GetField()), ok
	}
	return nil, false
}

// literal is the text of an expression that is a value.
func literal(e *expr.Expr) (string, bool) {
	switch k := e.GetExprKind().(type) {
	case *expr.Expr_ConstExpr:
		switch c := k.ConstExpr.GetConstantKind().(type) {
		case *expr.Constant_StringValue:
			return c.StringValue, true
		case *expr.Constant_Int64Value:
			return fmt.Sprint(c.Int64Value), true
		case *expr.Constant_DoubleValue:
			return fmt.Sprint(c.DoubleValue), true
		case *expr.Constant_BoolValue:
			return fmt.Sprint(c.BoolValue), true
		}
	case *expr.Expr_CallExpr: // timestamp("...") and duration("...")
		call := k.CallExpr
		if f := call.GetFunction(); (f == filtering.FunctionTimestamp || f == filtering.FunctionDuration) && len(call.GetArgs()) == 1 {
			return literal(call.GetArgs()[0])
		}
		return "", false
	}
	names, ok := member(e) // a word
	return strings.Join(names, "."), ok
}
