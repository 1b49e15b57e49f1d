package ike

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/swanherd/swanherd/ipsec/ident"
	"github.com/swanherd/swanherd/ipsec/suite"
	"github.com/swanherd/swanherd/ipsec/wire"
)

// TestNotices holds that every error code of the registry is explained: what it
// means from a peer, and what to do.
func TestNotices(t *testing.T) {
	for n := range wire.NotifyType(16384) {
		notice, ok := notices[n]
		if known := !strings.HasPrefix(n.String(), "NotifyType("); known != ok {
			t.Errorf("%s: known %v, explained %v", n, known, ok)
		}
		if ok && (notice.kind == KindUnknown || notice.meaning == "" || notice.remedy == "") {
			t.Errorf("%s: %+v", n, notice)
		}
	}
}

// TestErrorIsComplete holds that whatever an Error begins with, somebody who
// reads it learns the kind, the side, the exchange and a remedy.
func TestErrorIsComplete(t *testing.T) {
	w := pair(1, nil)
	causes := []error{
		nil, ErrNoAnswer, errNotReplaced, errTransportRefused,
		&ident.Error{Reason: ident.ReasonUntrusted, Detail: "no path", Remedy: "add it"},
		&ident.Error{Reason: ident.ReasonSignature, Detail: "bad"},
		&ident.Error{Reason: ident.ReasonConfiguration, Detail: "no key"},
		&suite.NoProposalError{Protocol: wire.ProtocolIKE, Offered: []string{"x"}, Accepted: []string{"y"}},
		&wire.UnsupportedCriticalError{Payload: 77},
	}
	codes := []wire.NotifyType{0, 8192, wire.NotifyCookie}
	for n := range notices {
		codes = append(codes, n)
	}
	exchanges := []wire.ExchangeType{
		0, wire.ExchangeIKESAInit, wire.ExchangeIKEAuth, wire.ExchangeCreateChildSA, wire.ExchangeInformational,
	}
	for _, err := range causes {
		for _, code := range codes {
			for _, x := range exchanges {
				for kind := range Kind(len(kindNames)) {
					e := &Error{Kind: kind, Exchange: x, Notify: code, Remote: code != 0 && err == nil, Err: err}
					w.a.t.complete(e, "net")
					if e.Kind == KindUnknown || e.Kind.String() == "unknown" || e.Remedy == "" || e.Cause() == "" || e.Child != "net" {
						t.Fatalf("%+v", e)
					}
					if d := e.Detail(); !strings.Contains(d, "side:") || (x != 0) != strings.Contains(d, "exchange: "+x.String()) {
						t.Fatalf("%s", d)
					}
				}
			}
		}
	}
}

// TestErrorSites reads this package: who makes an Error says in which exchange,
// or that the trouble is of a kind that has none.
func TestErrorSites(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	sites, set := 0, token.NewFileSet()
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(set, name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(f, func(n ast.Node) bool {
			lit, ok := n.(*ast.CompositeLit)
			if !ok {
				return true
			}
			if name, ok := lit.Type.(*ast.Ident); !ok || name.Name != "Error" {
				return true
			}
			sites++
			fields := map[string]string{}
			for _, e := range lit.Elts {
				kv := e.(*ast.KeyValueExpr)
				value, _ := kv.Value.(*ast.Ident)
				if value == nil {
					value = &ast.Ident{}
				}
				fields[kv.Key.(*ast.Ident).Name] = value.Name
			}
			_, exchange := fields["Exchange"]
			alone := []string{"KindDataPlane", "KindConfiguration", "KindExpired", "KindInternal"}
			if !exchange && !slices.Contains(alone, fields["Kind"]) {
				t.Errorf("%s: an Error without Exchange; give it, or one of the kinds %v that need none", set.Position(lit.Pos()), alone)
			}
			return true
		})
	}
	if sites < 30 {
		t.Errorf("found %d places that make an Error, there are many more", sites)
	}
}
