package edge

import (
	"errors"
	"fmt"
	"slices"

	"github.com/swanherd/swanherd/ipsec/engine"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// command begins what the controller was asked to have done. It does not wait for its end.
func (a *agent) command(c *swanherdv1.Command) error {
	switch action := c.GetAction().(type) {
	case *swanherdv1.Command_RekeyTunnel:
		return a.rekey(action.RekeyTunnel)
	case *swanherdv1.Command_RestartTunnel:
		a.cfg.Logger.Info("tunnel begins anew at the controller's wish", "tunnel", action.RestartTunnel.GetTunnel())
		return a.engine.Restart(action.RestartTunnel.GetTunnel())
	default:
		return errors.New("this agent does not know the command; update it")
	}
}

// rekey makes new SAs of a tunnel. Reauthentication brings new Child SAs too; without it
// each is rekeyed by itself.
func (a *agent) rekey(r *swanherdv1.RekeyTunnel) error {
	up := slices.ContainsFunc(a.engine.Status(), func(t engine.TunnelStatus) bool {
		return t.Name == r.GetTunnel() && len(t.IKE) > 0
	})
	if !up {
		return fmt.Errorf("%s has no SA here that could be made anew", r.GetTunnel())
	}
	a.cfg.Logger.Info("new SAs at the controller's wish", "tunnel", r.GetTunnel(), "reauthenticate", r.GetReauthenticate())
	if r.GetReauthenticate() {
		return a.engine.Reauthenticate(r.GetTunnel())
	}
	if err := a.engine.RekeyChild(r.GetTunnel(), ""); err != nil {
		return err
	}
	return a.engine.RekeyIKE(r.GetTunnel())
}
