package ike

import (
	"bytes"
	"errors"

	"github.com/swanherd/swanherd/ipsec/suite"
	"github.com/swanherd/swanherd/ipsec/wire"
)

// A CREATE_CHILD_SA exchange that negotiates several key exchanges performs the
// first one; the others follow, each in an IKE_FOLLOWUP_KE exchange, and the SA
// is made with the last one (RFC 9370, Section 2.2.4). What the responder keeps
// in between is a peerSeries.

// maxStateNotFound is how often in a row the peer may have forgotten our key
// exchanges before the IKE SA is given up (RFC 9370, Section 2.2.4).
const maxStateNotFound = 3

// keySeries is our part, as the initiator, of the key exchanges of one
// CREATE_CHILD_SA exchange. T is the kind of keys that they give.
type keySeries[T any] struct {
	sa      *ikeSA
	op      string
	ke      *suite.KeyExchange // of the exchange under way; nil if there is none
	pending []wire.KeyExchangeID
	link    []byte // what the peer told us to identify the series by
	secrets [][]byte
	// derive is for a job.
	derive func(skD []byte, secrets [][]byte) (T, error)
	// done gets the keys. made is true if the peer has the new SA by then.
	done func(keys T, made bool, err *Error)
}

// begin takes the peer's answer to CREATE_CHILD_SA. methods are those of the
// suite that was chosen.
func (s *keySeries[T]) begin(m *message, methods []wire.KeyExchangeID) {
	if len(methods) == 0 {
		if s.ke != nil { // it went with another proposal
			s.ke.Destroy()
			s.ke = nil
		}
		s.finish(nil)
		return
	}
	s.pending = methods[1:]
	s.take(m)
}

// checkLink holds that a response says how to go on if there is more to come.
func checkLink(m *message, pending int) error {
	if n := m.notify(wire.NotifyAdditionalKeyExchange); pending > 0 && (n == nil || len(n.Data) == 0) {
		return errors.New("ADDITIONAL_KEY_EXCHANGE is missing, and there are key exchanges to be made")
	}
	return nil
}

// take uses the peer's half of the key exchange under way, and begins the next
// one.
func (s *keySeries[T]) take(m *message) {
	theirs := find[*wire.KE](m).Data
	if len(s.pending) == 0 {
		s.finish(theirs)
		return
	}
	s.link = m.notify(wire.NotifyAdditionalKeyExchange).Data
	ke, method, rand := s.ke, s.pending[0], s.sa.m.runtime.Rand
	s.ke = nil // the job's from here on
	runJob(s.sa, ClassEstablished, func() (seriesStep, error) {
		defer ke.Destroy()
		secret, err := ke.Shared(theirs)
		if err != nil {
			return seriesStep{}, err
		}
		next, err := suite.NewKeyExchange(method, rand)
		if err != nil {
			clear(secret)
			return seriesStep{}, err
		}
		return seriesStep{secret, next}, nil
	}, func(step seriesStep, err error) {
		if err != nil {
			s.fail(&Error{Op: s.op, Exchange: m.Exchange, Payload: wire.PayloadKE, Err: err}, false)
			return
		}
		s.secrets, s.ke, s.pending = append(s.secrets, step.secret), step.next, s.pending[1:]
		s.sa.ask(wire.ExchangeIKEFollowupKE, []wire.Payload{
			&wire.KE{Group: method, Data: s.ke.Public()},
			&wire.Notify{Kind: wire.NotifyAdditionalKeyExchange, Data: s.link},
		}, s.answered)
	})
}

// seriesStep is the result of one key exchange and the private value for the
// next one.
type seriesStep struct {
	secret []byte
	next   *suite.KeyExchange
}

// Destroy zeroes the secrets.
func (s seriesStep) Destroy() {
	clear(s.secret)
	s.next.Destroy()
}

func (s *keySeries[T]) answered(m *message) {
	if n := m.errorNotify(); n != nil {
		if n.Kind == wire.NotifyStateNotFound {
			s.sa.stateNotFound()
		}
		s.fail(&Error{Op: s.op, Exchange: m.Exchange, Notify: n.Kind, Remote: true}, false)
		return
	}
	ke := find[*wire.KE](m)
	if ke == nil || ke.Group != s.ke.Group() {
		s.fail(&Error{Op: s.op, Exchange: m.Exchange, Payload: wire.PayloadKE, Err: errWrongMethod(s.ke.Group(), ke)}, len(s.pending) == 0)
		return
	}
	if err := checkLink(m, len(s.pending)); err != nil {
		s.fail(&Error{Op: s.op, Exchange: m.Exchange, Payload: wire.PayloadNotify, Err: err}, false)
		return
	}
	s.take(m)
}

// stateNotFound counts how often the peer has forgotten our key exchanges.
func (sa *ikeSA) stateNotFound() {
	if sa.forgotten++; sa.forgotten >= maxStateNotFound {
		sa.end(ReasonProtocol)
	}
}

// finish computes the keys from all shared secrets.
func (s *keySeries[T]) finish(theirs []byte) {
	sa, ke, secrets, derive := s.sa, s.ke, s.secrets, s.derive
	s.ke, s.secrets = nil, nil // the job's from here on
	skD := bytes.Clone(sa.keys.D)
	runJob(sa, ClassEstablished, func() (keys T, err error) {
		defer clear(skD)
		defer func() { clearAll(secrets) }()
		if ke != nil {
			defer ke.Destroy()
			secret, err := ke.Shared(theirs)
			if err != nil {
				return keys, err
			}
			secrets = append(secrets, secret)
		}
		return derive(skD, secrets)
	}, func(keys T, err error) {
		if err != nil {
			s.fail(&Error{Op: s.op, Exchange: wire.ExchangeCreateChildSA, Payload: wire.PayloadKE, Err: err}, true)
			return
		}
		sa.forgotten = 0
		s.done(keys, true, nil)
	})
}

func (s *keySeries[T]) fail(err *Error, made bool) {
	s.abandon()
	var none T
	s.done(none, made, err)
}

// abandon forgets the secrets.
func (s *keySeries[T]) abandon() {
	if s == nil {
		return
	}
	if s.ke != nil {
		s.ke.Destroy()
		s.ke = nil
	}
	clearAll(s.secrets)
	s.secrets = nil
}

func clearAll(secrets [][]byte) {
	for _, secret := range secrets {
		clear(secret)
	}
}
