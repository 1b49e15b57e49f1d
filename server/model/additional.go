package model

import (
	"fmt"
	"slices"
	"strings"
)

const (
	// maxAdditional is how many key exchanges can follow the first one (RFC
	// 9370, Section 2.2.1), maxChoices how many combinations of methods a
	// proposal may allow.
	maxAdditional = 7
	maxChoices    = 4096

	noAdditional = "none"
)

// additional splits a keyword like "ke1_mlkem768" into the number of the
// additional key exchange, counted from 0, and its method.
func additional(w string) (number int, method string, ok bool) {
	head, method, found := strings.Cut(w, "_")
	if !found || len(head) != 3 || head[:2] != "ke" || head[2] < '1' || head[2] > '0'+maxAdditional {
		return 0, "", false
	}
	return int(head[2] - '1'), method, method == noAdditional || slices.Contains(keyExchanges, method)
}

// canonical returns the name of a keyword that the others are compared by.
func canonical(w string) string {
	if name, ok := keywordAliases[w]; ok {
		return name
	}
	if head, method, found := strings.Cut(w, "_"); found && keywordAliases[method] != "" {
		return head + "_" + keywordAliases[method]
	}
	return w
}

// exchanges checks that some choice of key exchange methods uses none twice,
// and no additional one without a first (RFC 9370, Section 2.2.1).
func exchanges(words []string) (problem, remedy string) {
	lists := make([][]string, 1+maxAdditional)
	for _, w := range words {
		if number, method, ok := additional(w); ok {
			lists[1+number] = append(lists[1+number], method)
		} else if slices.Contains(keyExchanges, w) || slices.Contains(optionalExchange, w) {
			lists[0] = append(lists[0], w)
		}
	}
	choices, several := max(1, len(lists[0])), false
	for i := range lists[1:] {
		several = several || len(lists[1+i]) > 0
		if len(lists[1+i]) == 0 {
			lists[1+i] = []string{noAdditional}
		}
		if choices *= len(lists[1+i]); choices > maxChoices {
			return fmt.Sprintf("allows more than %d combinations of key exchanges", maxChoices), "remove some"
		}
	}
	switch {
	case !several:
	case len(lists[0]) == 0:
		return "has an additional key exchange and no first one (RFC 9370)", "add one of " + strings.Join(keyExchanges, ", ")
	case !compatible(nil, lists):
		return "makes the same key exchange twice whatever is chosen (RFC 9370, Section 2.2.1)", "remove it in one place"
	}
	return "", ""
}

// compatible reports whether one method can be taken of each list in addition
// to the chosen ones.
func compatible(chosen []string, lists [][]string) bool {
	if len(lists) == 0 {
		return true
	}
	return slices.ContainsFunc(lists[0], func(m string) bool {
		if m != noAdditional && (slices.Contains(chosen, m) || len(chosen) > 0 && slices.Contains(optionalExchange, chosen[0])) {
			return false
		}
		return compatible(append(slices.Clip(chosen), m), lists[1:])
	})
}
