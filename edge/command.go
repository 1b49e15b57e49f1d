package edge

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/swanherd/swanherd/edge/job"
	"github.com/swanherd/swanherd/ipsec/engine"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// command begins what the controller was asked to have done. It does not wait for its end.
func (a *agent) command(c *swanherdv1.Command) error {
	switch action := c.GetAction().(type) {
	case *swanherdv1.Command_RekeyTunnel:
		return a.rekey(action.RekeyTunnel.GetTunnel(), action.RekeyTunnel.GetReauthenticate())
	case *swanherdv1.Command_RestartTunnel:
		return a.restart(action.RestartTunnel.GetTunnel())
	case *swanherdv1.Command_StartJob:
		return a.jobs.Start(action.StartJob.GetJob())
	case *swanherdv1.Command_CancelJob:
		return a.jobs.Cancel(action.CancelJob.GetJob())
	default:
		return errors.New("this agent does not know the command; update it")
	}
}

// rekey makes new SAs of a tunnel. Reauthentication brings new Child SAs too; without it
// each is rekeyed by itself.
func (a *agent) rekey(tunnel string, reauthenticate bool) error {
	up := slices.ContainsFunc(a.engine.Status(), func(t engine.TunnelStatus) bool {
		return t.Name == tunnel && len(t.IKE) > 0
	})
	if !up {
		return fmt.Errorf("%s has no SA here that could be made anew", tunnel)
	}
	a.cfg.Logger.Info("new SAs at the controller's wish", "tunnel", tunnel, "reauthenticate", reauthenticate)
	if reauthenticate {
		return a.engine.Reauthenticate(tunnel)
	}
	if err := a.engine.RekeyChild(tunnel, ""); err != nil {
		return err
	}
	return a.engine.RekeyIKE(tunnel)
}

func (a *agent) restart(tunnel string) error {
	a.cfg.Logger.Info("tunnel begins anew at the controller's wish", "tunnel", tunnel)
	return a.engine.Restart(tunnel)
}

// newJobs runs jobs for the controller; they end with ctx.
func (a *agent) newJobs(ctx context.Context) *job.Runner {
	return job.New(ctx, job.Config{
		Place: a.jobPlace, Uplink: a.uplinkInterface,
		Tunnels: func() (names []string) {
			for _, t := range a.engine.Status() {
				names = append(names, t.Name)
			}
			return names
		},
		Rekey: a.rekey, Restart: a.restart, Files: a.explain,
		Ended: func(r *swanherdv1.JobReport) { a.client.Load().JobEnded(r) }, Logger: a.cfg.Logger,
	})
}

func (a *agent) jobPlace(segment string) (job.Place, bool) {
	if segment == "" {
		return job.Place{Interface: a.plane.Interface()}, true
	}
	i := slices.IndexFunc(a.segments, func(at *segmentPlace) bool { return at.Name == segment })
	if i < 0 {
		return job.Place{}, false
	}
	return job.Place{Interface: a.cfg.Interface, Enter: a.segments[i].namespace.Do}, true
}

func (a *agent) uplinkInterface(name string) (string, bool) {
	for _, u := range a.uplinks.Current() {
		if u.GetName() == name {
			return u.GetInterface(), true
		}
	}
	return "", false
}
