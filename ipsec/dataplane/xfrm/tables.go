package xfrm

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/vishvananda/netlink/nl"

	"github.com/swanherd/swanherd/ipsec/dataplane"
)

const (
	// roomForStates is for how many states the kernel's tables have places before there is
	// traffic: those of a hundred tunnels that are rekeyed.
	roomForStates = 512

	sadHashInfo = 2 // XFRMA_SAD_HINFO
)

// enlargeTables makes room. The kernel doubles its tables when there are more states
// than places, beginning with eight, and drops the packets for which it looks for a state
// in that moment (xfrm_state_find, which finds that the generation of the tables is
// another). They never become smaller: states of no use make it do so now.
func (c *conn) enlargeTables() (err error) {
	var made []stateID
	defer func() { err = errors.Join(err, c.deleteStates(made...)) }()
	for spi := uint32(dataplane.MinSPI) + 1; len(made) < 4*roomForStates; {
		places, err := c.places()
		if err != nil || places >= roomForStates {
			return err
		}
		add := make([]request, 0, batchRequests)
		for range batchRequests {
			s, err := trialState(spi)
			if err != nil {
				return err
			}
			spi++
			add, made = append(add, s.newState()), append(made, s.stateID)
		}
		c.send(add...) // what a killed process left of them is there
	}
	return nil
}

// places is how many the kernel's tables of states have.
func (c *conn) places() (int, error) {
	body, err := c.do(request{kind: nl.XFRM_MSG_GETSADINFO, body: make([]byte, 4)})
	if err != nil {
		return 0, fmt.Errorf("ask for the size of the tables of states: %w", err)
	}
	if len(body) < 4 {
		return 0, errShort
	}
	info := parseAttributes(body[4:])[sadHashInfo]
	if len(info) < 4 {
		return 0, errShort
	}
	return int(binary.NativeEndian.Uint32(info)), nil
}
