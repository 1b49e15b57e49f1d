package suite

import (
	"fmt"
	"io"

	"github.com/swanherd/swanherd/ipsec/wire"
)

// Respond does the responder's half of a key exchange at once: it takes the Key
// Exchange Data of the initiator and returns that of the answer and the shared
// secret, which the caller clears when the keys are derived. Its error wraps
// ErrInvalidPublicValue if the peer is to blame. rand is not used for ML-KEM.
func Respond(method wire.KeyExchangeID, peer []byte, rand io.Reader) (public, shared []byte, err error) {
	if m, ok := mlkemMethods[method]; ok {
		if err := testKeyExchange(method); err != nil {
			return nil, nil, err
		}
		if public, shared, err = m.encapsulate(peer); err != nil {
			err = fmt.Errorf("key exchange %s: %w: %w", groupKeyword(method), ErrInvalidPublicValue, err)
		}
		return public, shared, err
	}
	k, err := NewKeyExchange(method, rand)
	if err != nil {
		return nil, nil, err
	}
	defer k.Destroy()
	if shared, err = k.Shared(peer); err != nil {
		return nil, nil, err
	}
	return k.Public(), shared, nil
}
