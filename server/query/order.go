package query

import (
	"cmp"
	"fmt"

	"go.einride.tech/aip/ordering"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// An Order is the order that a list is asked for in. The zero Order leaves all
// messages equal.
type Order struct{ keys []key }

type key struct {
	path path
	desc bool
}

// ParseOrder parses an order such as `labels.region, create_time desc` for
// messages of that type. The error says what is wrong with it.
func ParseOrder(text string, d protoreflect.MessageDescriptor) (Order, error) {
	var parsed ordering.OrderBy
	if err := parsed.UnmarshalString(text); err != nil {
		return Order{}, fmt.Errorf("%q is not a list of fields, each with desc or nothing behind it, separated by commas", clip(text))
	}
	var o Order
	for _, f := range parsed.Fields {
		p, err := resolve(d, f.SubFields())
		if err != nil {
			return Order{}, err
		}
		if p.many || p.leaf().field.IsMap() && p.leaf().key == nil || !comparable(p.value()) {
			return Order{}, fmt.Errorf("%q is no single value to order by", p.text)
		}
		o.keys = append(o.keys, key{p, f.Desc})
	}
	return o, nil
}

// Empty says whether no order was asked for.
func (o Order) Empty() bool { return len(o.keys) == 0 }

// Compare says which of two messages comes first. What is not set comes before
// all that is.
func (o Order) Compare(a, b protoreflect.Message) int {
	for _, k := range o.keys {
		c := k.compare(a, b)
		if k.desc {
			c = -c
		}
		if c != 0 {
			return c
		}
	}
	return 0
}

func (k key) compare(a, b protoreflect.Message) int {
	var x, y protoreflect.Value
	var setX, setY bool
	k.path.each(a, func(v protoreflect.Value, set bool) bool { x, setX = v, set; return true })
	k.path.each(b, func(v protoreflect.Value, set bool) bool { y, setY = v, set; return true })
	if k.path.leaf().key != nil || k.path.value().Message() != nil { // those that have presence
		if c := cmp.Compare(number(setX), number(setY)); c != 0 || !setX {
			return c
		}
	}
	return compare(k.path.value(), x, y)
}
