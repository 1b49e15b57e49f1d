package engine

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/swanherd/swanherd/ipsec/ike"
)

// as are configurations of the tunnel of an end under other names, one for each.
func (c *continuity) as(end int, names ...string) (list []TunnelConfig) {
	for _, name := range names {
		config := c.config(end)
		config.Name = name
		list = append(list, config)
	}
	return list
}

func (c *continuity) rename(end int, names ...string) {
	c.told = append(c.told, fmt.Sprintf("%s %s gets %v", time.Now().Format("04:05.000"), c.ends[end].id, names))
	for _, r := range c.ends[end].Apply(c.as(end, names...)) {
		if r.Err != nil {
			c.t.Fatal(r.Err)
		}
	}
}

// names are those of the tunnels that an end has.
func (c *continuity) names(end int) string {
	var names []string
	for _, s := range c.ends[end].Status() {
		names = append(names, s.Name)
	}
	return strings.Join(names, " ")
}

// A tunnel gets another name, several take its place and one theirs, or another comes beside
// it and goes, at the two ends one after the other. What is not wanted any more goes at both
// when its successors are up, only packets that are under way at that moment are lost, and in
// the end each has its counterpart.
func TestTunnelsTakeThePlaceOfOthers(t *testing.T) {
	for _, names := range []string{"renamed", "a b", "a b c d", "more tunnel", "tunnel zest"} {
		for _, first := range []int{0, 1} {
			for _, gap := range []time.Duration{0, 5 * time.Millisecond, 50 * time.Millisecond, 500 * time.Millisecond, 5 * time.Second, 20 * time.Second} {
				t.Run(fmt.Sprintf("%s/%d first/%s", names, first, gap), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						c := newContinuity(t, 1)
						for _, now := range []string{names, "tunnel"} {
							c.rename(first, strings.Fields(now)...)
							c.flow.run(gap)
							c.rename(1-first, strings.Fields(now)...)
							c.flow.run(2 * time.Minute)
							for end := range c.ends {
								if got := c.names(end); got != now {
									t.Errorf("%s has the tunnels %s, want %s", c.ends[end].id, got, now)
								}
								for _, name := range strings.Fields(now) {
									if s := c.ends[end].status(name); s.State != ike.StateUp {
										t.Errorf("%s of %s is %s", name, c.ends[end].id, s.State)
									}
								}
							}
						}
						if lost := c.flow.lost(); lost > 300*time.Millisecond {
							t.Errorf("packets were lost for %s\n%s", lost, strings.Join(append(c.told, c.flow.losses()...), "\n"))
						}
					})
				})
			}
		}
	}
}

// A tunnel with successors that do not come up is closed after a minute; one without any,
// with some that are up, or with such as carry other packets, at once.
func TestOutgoingTunnelIsNotKeptForLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newContinuity(t, 1)
		c.rename(0, "other") // which the peer has not
		c.ends[1].Apply(nil)
		time.Sleep(time.Second)
		if got := c.names(0); got != "other" {
			t.Errorf("the peer closed the tunnel, and there are %s", got)
		}
		c.rename(1, "tunnel")
		c.rename(0, "tunnel")
		c.ends[0].waitState("tunnel", ike.StateUp, 10*time.Second)
		config := c.as(0, "elsewhere")
		config[0].Children[0].LocalTS, config[0].Children[0].RemoteTS = config[0].Children[0].RemoteTS, config[0].Children[0].LocalTS
		c.ends[0].Apply(config)
		time.Sleep(time.Second)
		if got := c.names(0); got != "elsewhere" {
			t.Errorf("for what carries something else there are %s", got)
		}
		c.rename(0, "tunnel")
		c.ends[0].waitState("tunnel", ike.StateUp, time.Minute)
		silent := c.as(0, "silent")
		silent[0].Role = ike.RoleResponder
		silent[0].Timing.TakeOver = time.Hour
		began := time.Now()
		c.ends[0].Apply(silent)
		time.Sleep(successionTime - time.Second)
		if got := c.names(0); got != "silent tunnel" {
			t.Errorf("after %s there are %s", time.Since(began), got)
		}
		time.Sleep(2 * time.Second)
		if got := c.names(0); got != "silent" {
			t.Errorf("after %s there are %s", time.Since(began), got)
		}
	})
}
