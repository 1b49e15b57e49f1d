package ike

import (
	"testing"

	"github.com/swanherd/swanherd/ipsec/ts"
)

// What is carried is never more than what was negotiated.
func TestCarried(t *testing.T) {
	parse := func(texts ...string) (out []ts.Selector) {
		for _, text := range texts {
			s, err := ts.Parse(text)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, s)
		}
		return out
	}
	c := ChildConfig{LocalTS: parse("0.0.0.0/0"), RemoteTS: parse("0.0.0.0/0"), CarriedLocal: parse("10.1.0.0/16"), CarriedRemote: parse("10.2.0.0/16", "10.3.0.0/16")}
	for _, x := range []struct{ negotiated, want []ts.Selector }{
		{parse("0.0.0.0/0"), parse("10.2.0.0/16", "10.3.0.0/16")},
		{parse("10.2.128.0/17"), parse("10.2.128.0/17")},
		{parse("192.168.0.0/16"), nil},
	} {
		if _, remote := c.carried(c.LocalTS, x.negotiated); !ts.Covers(x.want, remote) || !ts.Covers(remote, x.want) {
			t.Errorf("of %v it carries %v, want %v", x.negotiated, remote, x.want)
		}
	}
	c.CarriedLocal, c.CarriedRemote = nil, nil
	if _, remote := c.carried(c.LocalTS, c.RemoteTS); !ts.Covers(remote, c.RemoteTS) {
		t.Errorf("without a limit it carries %v", remote)
	}
}
