package edge

import (
	"github.com/swanherd/swanherd/edge/enroll"
	"github.com/swanherd/swanherd/edge/state"
)

// TPM keeps an edge's control key and proves so.
type TPM interface {
	state.TPM
	enroll.Attester
	// EKFingerprint is by what an operator registers it, hexadecimal.
	EKFingerprint() (string, error)
}

// OpenState opens the state directory, whose control key is in the TPM if there is one at
// tpm, a device or a socket; empty: there is none.
func OpenState(dir, tpm string) (*state.Dir, TPM, error) {
	d, err := state.Open(dir)
	if err != nil || tpm == "" {
		return d, nil, err
	}
	t, err := openTPM(tpm)
	if err != nil {
		d.Close()
		return nil, nil, err
	}
	d.KeepKeysIn(t)
	return d, t, nil
}
