package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/swanherd/swanherd/deployments/lab"
	"github.com/swanherd/swanherd/deployments/lab/wan"
)

const (
	// cutFor is how long Berlin's first line is dark, and aroundCut how long packets pass
	// before that and afterwards. pingEvery is between two of them.
	cutFor    = 5 * time.Second
	aroundCut = time.Second
	pingEvery = 20 * time.Millisecond
)

// cut is what the traffic of a site saw of its first line being cut.
type cut struct {
	From string `json:"from"`
	To   string `json:"to"`
	lab.PingResult
	// Away is for how long the line was dark, and Gone for how long no packet came back.
	Away time.Duration `json:"away_ns"`
	Gone time.Duration `json:"gone_ns"`
}

// loseLine has Berlin's first line go dark for a moment, while its LAN talks to Oslo's.
func (d *demo) loseLine(ctx context.Context) (*cut, error) {
	from, to := d.world.sites[0], d.world.sites[1]
	c := &cut{From: from.name, To: to.name, Away: cutFor}
	over := make(chan struct{})
	var talk sync.WaitGroup
	var err error
	talk.Go(func() {
		c.PingResult, c.Gone, err = from.lan.PingUntil(ctx, from.lanAddr4, to.lanAddr4, pingEvery, over, func() {})
	})
	pause := func(t time.Duration) {
		select {
		case <-ctx.Done():
		case <-time.After(t):
		}
	}
	pause(aroundCut)
	d.darken(true)
	pause(cutFor)
	d.darken(false)
	pause(aroundCut)
	close(over)
	talk.Wait()
	if err != nil {
		return nil, fmt.Errorf("ping while a line is dark: %w", err)
	}
	d.step("the first line of %s was dark for %v: %d of %d pings were lost, within %v", c.From, c.Away, c.Sent-c.Received, c.Sent, c.Gone.Round(time.Millisecond))
	return c, nil
}

// darken cuts Berlin's first line, or joins it again.
func (d *demo) darken(yes bool) {
	is := wan.Conditions{Blackout: yes}
	d.world.line.Set(is, is)
}

// cutByHand does so in turns, with each line that is typed.
func (d *demo) cutByHand(typed io.Reader) {
	lines := bufio.NewScanner(typed)
	for dark := true; lines.Scan(); dark = !dark {
		d.darken(dark)
		d.step("the first line of %s is %s", d.world.sites[0].name, map[bool]string{true: "dark", false: "joined again"}[dark])
	}
}

// mostGone is far above the second that it may take, as the machine may have other work, and
// far below what IKE's own liveness takes.
const mostGone = 3 * time.Second

// verdict is nil when the traffic took another way soon.
func (c *cut) verdict() error {
	switch {
	case c == nil:
		return nil
	case c.Received == c.Sent:
		return errors.New("a line was dark and no ping was lost: was there another way?")
	case c.Gone > mostGone:
		return fmt.Errorf("the traffic of %s was away for %v", c.From, c.Gone)
	}
	return nil
}
