// Package stepcatest runs a real step-ca for tests, the one of deployments/dev/stepca.
package stepcatest

import (
	"path/filepath"
	"testing"

	"github.com/swanherd/swanherd/server/peertest"
	"github.com/swanherd/swanherd/server/stepca"
)

// StepCA is a step-ca on loopback. Its provisioners, of the type JWK and with one key, are
// `authorities`, which makes authorities for a year, `short`, which makes them for a day unless
// somebody asks for more, and `leaves`, which makes none.
type StepCA struct {
	// URL is where it is, and Dir holds root.pem, key.json, and locked.json, which is that as
	// `step` encrypts it with the password in password.
	URL, Dir string

	t    testing.TB
	peer *peertest.Peer
}

// Start starts one.
func Start(t testing.TB) *StepCA {
	t.Helper()
	s := &StepCA{t: t, Dir: t.TempDir()}
	s.Restart()
	t.Cleanup(s.Stop)
	return s
}

// Restart starts it again after Stop, as it was and where it was.
func (s *StepCA) Restart() {
	s.t.Helper()
	s.peer = peertest.Start(s.t, "stepca", nil, s.Dir)
	s.URL = s.peer.URL
}

// Stop stops it.
func (s *StepCA) Stop() { s.peer.Stop() }

// Settings are those of a controller that comes as one of the provisioners.
func (s *StepCA) Settings(provisioner string) stepca.Config {
	return stepca.Config{
		URL: s.URL, RootFile: filepath.Join(s.Dir, "root.pem"), Provisioner: provisioner,
		KeyFile: filepath.Join(s.Dir, "key.json"),
	}
}
