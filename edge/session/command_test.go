package session

import (
	"slices"
	"testing"
	"testing/synctest"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// Commands are answered by their ids, also those that this agent does not know.
func TestCommands(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet()
		done := make(chan struct{})
		play(t, f, func(*Client, *controller) { <-done }, func(t *testing.T, s serverStream) error {
			defer close(done)
			recv(t, s) // Hello
			if err := s.Send(&swanherdv1.ControllerMessage{Message: &swanherdv1.ControllerMessage_Welcome{
				Welcome: &swanherdv1.Welcome{ProtocolVersion: 1},
			}}); err != nil {
				return err
			}
			recvSkip(t, s) // the full report
			for _, c := range []*swanherdv1.Command{
				{Id: 7, Action: &swanherdv1.Command_RekeyTunnel{RekeyTunnel: &swanherdv1.RekeyTunnel{Tunnel: "networks/n/tunnels/a--b"}}},
				{Id: 8}, // of a newer controller
			} {
				if err := s.Send(&swanherdv1.ControllerMessage{Message: &swanherdv1.ControllerMessage_Command{Command: c}}); err != nil {
					return err
				}
				r := recvSkip(t, s).GetCommandResult()
				if r.GetId() != c.GetId() || (r.GetError() == "") != (c.GetAction() != nil) {
					t.Errorf("command %d is answered with %v", c.GetId(), r)
				}
			}
			return nil
		})
		if want := []string{"networks/n/tunnels/a--b"}; !slices.Equal(f.commands, want) {
			t.Errorf("carried out %v, want %v", f.commands, want)
		}
	})
}
