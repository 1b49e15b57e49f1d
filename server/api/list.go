package api

import (
	"encoding/base64"
	"encoding/json"
	"iter"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/swanherd/swanherd/server/access"
	"github.com/swanherd/swanherd/server/fleet"
	"github.com/swanherd/swanherd/server/model"
)

const (
	defaultPageSize = 100
	maxPageSize     = 1000
)

// pageToken says where a list goes on: after the last name of the page before,
// so that what is created or deleted meanwhile moves nothing else.
type pageToken struct {
	Parent string `json:"p"`
	After  string `json:"a"`
}

func (t pageToken) encode() string {
	b, err := json.Marshal(t)
	if err != nil { // two strings
		panic(err)
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

func decodePageToken(s, parent string) (pageToken, error) {
	if s == "" {
		return pageToken{Parent: parent}, nil
	}
	var t pageToken
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err == nil {
		err = json.Unmarshal(b, &t)
	}
	if err != nil || t.Parent != parent {
		return pageToken{}, access.Invalid("page_token", "is not from the previous answer to the same request; start without one")
	}
	return t, nil
}

func pageSize(asked int32) int {
	if asked == 0 {
		return defaultPageSize
	}
	return min(int(asked), maxPageSize)
}

// page takes one page from a sequence that is in the order of names and starts
// after token.After.
func page[T any](token pageToken, size int32, from iter.Seq2[string, T]) (out []T, next string) {
	limit := pageSize(size)
	last := ""
	for name, v := range from {
		if len(out) == limit {
			return out, pageToken{Parent: token.Parent, After: last}.encode()
		}
		out = append(out, v)
		last = name
	}
	return out, ""
}

// checkParent refuses a parent that is no network, or one that does not exist.
func checkParent(t *model.Topology, parent string) error {
	if parent == fleet.AllNetworks {
		return nil
	}
	if _, err := model.ParseNetworkName(parent); err != nil {
		return access.Invalid("parent", err.Error()+"; networks/- stands for all")
	}
	if _, ok := t.Networks.Get(parent); !ok {
		return status.Errorf(codes.NotFound, "%s does not exist", parent)
	}
	return nil
}

// rowsAfter yields the rows of a collection in parent that the caller sees and
// that come after the token's name.
func rowsAfter[T any](table model.Table[T], parent, after string, sees func(string) bool) iter.Seq2[string, model.Row[T]] {
	prefix := ""
	if parent != "" && parent != fleet.AllNetworks {
		prefix = parent + "/"
	}
	return func(yield func(string, model.Row[T]) bool) {
		for row := range table.After(max(after, prefix)) {
			if !strings.HasPrefix(row.Name, prefix) {
				return
			}
			if sees(networkOf(row.Name).String()) && !yield(row.Name, row) {
				return
			}
		}
	}
}
