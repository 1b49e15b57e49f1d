package session

import (
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// What an edge says of itself is stored, shown to every viewer, and planned
// with: an edge gone wrong must not make the whole fleet pay.
const (
	// maxWord bounds a version, an interface and the like in octets.
	maxWord = 64
	// maxUplinks bounds the WAN attachments of an edge; every pair of two edges'
	// is a tunnel.
	maxUplinks = 16
	// maxAddresses bounds the addresses of an uplink.
	maxAddresses = 16
	// maxText bounds an explanation in octets.
	maxText = 1024
)

// clip cuts s to at most n octets and a mark.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "") + "..."
}

// maxOffers bounds the proposals or selectors of an end that an error names.
const maxOffers = 16

// clipError cuts what an edge says of a failure.
func clipError(e *swanherdv1.TunnelError) {
	for _, word := range []*string{&e.Code, &e.Exchange, &e.Payload, &e.Notify, &e.Child} {
		*word = clip(*word, maxWord)
	}
	e.Message, e.Remedy = clip(e.GetMessage(), maxText), clip(e.GetRemedy(), maxText)
	for _, list := range []*[]string{&e.Ours, &e.Theirs} {
		*list = (*list)[:min(len(*list), maxOffers)]
		for i, text := range *list {
			(*list)[i] = clip(text, maxText)
		}
	}
}

// maxViolations is how many limits an SLA has.
const maxViolations = 3

// checkUplinks refuses more than an edge can have. The rules of the message
// hold each of them to its form.
func checkUplinks(uplinks []*swanherdv1.Uplink) error {
	if len(uplinks) > maxUplinks {
		return status.Errorf(codes.InvalidArgument, "%d uplinks; report at most %d", len(uplinks), maxUplinks)
	}
	seen := map[string]bool{}
	for _, u := range uplinks {
		switch {
		case seen[u.GetName()]:
			return status.Errorf(codes.InvalidArgument, "two uplinks have the name %q; give each its own", u.GetName())
		case len(u.GetInterface()) > maxWord:
			return status.Errorf(codes.InvalidArgument, "the interface of uplink %q has more than %d octets", u.GetName(), maxWord)
		case len(u.GetAddresses()) > maxAddresses:
			return status.Errorf(codes.InvalidArgument, "uplink %q has %d addresses; report at most %d", u.GetName(), len(u.GetAddresses()), maxAddresses)
		}
		seen[u.GetName()] = true
	}
	return nil
}
