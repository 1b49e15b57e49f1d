package access

import (
	"strings"

	"github.com/swanherd/swanherd/server/store"
)

// SameHand says whether two actors may be one person: they are the same, or one made the
// API token that the other one is, as a browser's session from a login link is. Who made a
// token has seen its secret.
func SameHand(snap *store.Snapshot, a, b string) bool {
	return a == b || made(snap, a, b) || made(snap, b, a)
}

// made says whether the maker made the token of the actor, itself or by tokens that it
// made.
func made(snap *store.Snapshot, maker, actor string) bool {
	for range maxMakers {
		id, isToken := strings.CutPrefix(actor, "token:")
		if !isToken {
			return false
		}
		if actor = snap.APITokens.Value("apiTokens/" + id).GetActor(); actor == maker {
			return true
		}
	}
	return true // nobody needs so many, but who wants to hide
}

// maxMakers bounds how far back it is looked who made a token that made a token.
const maxMakers = 32
