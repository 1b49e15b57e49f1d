package model

import (
	"fmt"
	"net/netip"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// maxAssertions bounds the assertions of a network.
const maxAssertions = 200

// AssertionError is what is wrong with a field of an assertion.
type AssertionError struct{ Field, Problem, Remedy string }

func (e *AssertionError) Error() string { return e.Field + ": " + e.Problem + "; " + e.Remedy }

// ParseAssertion returns the two prefixes; the error is an *AssertionError.
func ParseAssertion(a *swanherdv1.Assertion) (source, destination netip.Prefix, err error) {
	if source, err = assertedPrefix("source", a.GetSource()); err != nil {
		return source, destination, err
	}
	if destination, err = assertedPrefix("destination", a.GetDestination()); err != nil {
		return source, destination, err
	}
	if source.Addr().Is4() != destination.Addr().Is4() {
		return source, destination, &AssertionError{"destination", "is not of the same IP version as source", "write two prefixes of one"}
	}
	return source, destination, nil
}

func assertedPrefix(field, text string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(text)
	if err != nil || p != p.Masked() {
		return p, &AssertionError{field, "is not a prefix such as 10.1.0.0/16 or 2001:db8::/48", "write one, with no bits behind its length"}
	}
	return p, nil
}

// assertions checks those that stand.
func (v *validator) assertions() {
	of := map[string]int{}
	for row := range v.t.Assertions.All() {
		v.inNetwork(row.Name)
		network, a := networkOf(row.Name), row.Value
		if of[network]++; of[network] == maxAssertions+1 {
			v.add(row.Name, "name", fmt.Sprintf("%s has more than %d assertions", network, maxAssertions), "remove some")
		}
		if _, _, err := ParseAssertion(a); err != nil {
			bad := err.(*AssertionError)
			v.add(row.Name, bad.Field, bad.Problem, bad.Remedy)
		}
		if a.GetAfterOnly() {
			v.add(row.Name, "after_only", "is for assertions of change sets", "leave it out")
		}
		if a.GetSegment() == "" {
			continue
		}
		name, _ := ParseNetworkName(network)
		if problem, remedy := CheckSegment(v.t, name, a.GetSegment(), v.sees); problem != "" {
			v.add(row.Name, "segment", problem, remedy)
		}
	}
}
