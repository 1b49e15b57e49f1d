package ts_test

import (
	"fmt"

	"github.com/swanherd/swanherd/ipsec/ts"
)

// A responder narrows what it was offered to its own policy.
func ExampleNarrow() {
	var offer, policy []ts.Selector
	for _, text := range []string{"198.51.100.43[tcp/443]", "198.51.100.0/24"} {
		s, err := ts.Parse(text)
		if err != nil {
			fmt.Println(err)
			return
		}
		offer = append(offer, s)
	}
	s, err := ts.Parse("198.51.100.32-198.51.100.63")
	if err != nil {
		fmt.Println(err)
		return
	}
	policy = append(policy, s)
	fmt.Println(ts.Narrow(offer, policy))
	// Output:
	// [198.51.100.32/27]
}
