package engine

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"sync"
	"time"

	"github.com/swanherd/swanherd/ipsec/ike"
)

// Store keeps what the engine wants to find again after a restart. There are
// secrets in it: it is to be kept as private keys are, and sealed if they are.
type Store interface {
	// Load returns what was saved last, nil if nothing was.
	Load() ([]byte, error)
	// Save replaces it, as a whole. It may block; the engine calls it from one
	// goroutine and does not keep the slice.
	Save([]byte) error
}

const (
	// kept is the version of the form in which it is saved.
	kept = 1
	// secretLen is the length of the secret from which others are derived, in
	// octets.
	secretLen = 32
	// savePause is the least time between two saves: what changes with many
	// tunnels at once is saved once.
	savePause = time.Second
)

// remembered is what survives a restart.
type remembered struct {
	Version int
	// Secret is made once.
	Secret []byte
	// TicketKeys seal the tickets of peers (RFC 5723); Tickets are what the
	// tunnels, by name, got of theirs.
	TicketKeys []byte            `json:",omitempty"`
	Tickets    map[string][]byte `json:",omitempty"`
}

// keeper holds the memory and saves it when it changes.
type keeper struct {
	store  Store
	logger *slog.Logger
	change chan struct{} // capacity 1: something is to be saved
	keys   *ike.TicketKeys

	mu     sync.Mutex
	memory remembered // guarded by mu
}

// newKeeper loads the memory, or begins a new one. What cannot be read is
// begun anew too: all that is lost is speed after a restart.
func newKeeper(store Store, rand io.Reader, logger *slog.Logger) (*keeper, error) {
	k := &keeper{store: store, logger: logger, change: make(chan struct{}, 1)}
	b, err := store.Load()
	if err != nil {
		return nil, fmt.Errorf("load what the engine is to remember: %w", err)
	}
	defer clear(b)
	if len(b) > 0 {
		if err := json.Unmarshal(b, &k.memory); err == nil && k.memory.Version == kept && len(k.memory.Secret) == secretLen {
			return k, nil
		}
		logger.Warn("what the engine remembered cannot be read; beginning anew")
	}
	k.memory = remembered{Version: kept, Secret: make([]byte, secretLen)}
	if _, err := io.ReadFull(rand, k.memory.Secret); err != nil {
		return nil, fmt.Errorf("make the engine's secret: %w", err)
	}
	k.changed()
	return k, nil
}

// tokens returns the secret of quick crash detection.
func (k *keeper) tokens() (*ike.TokenSecret, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return ike.NewTokenSecret(k.memory.Secret)
}

// ticket returns what a tunnel of that name left for a restart.
func (k *keeper) ticket(tunnel string) []byte {
	k.mu.Lock()
	defer k.mu.Unlock()
	return bytes.Clone(k.memory.Tickets[tunnel])
}

// keepTicket keeps it; nil forgets it.
func (k *keeper) keepTicket(tunnel string, state []byte) {
	k.mu.Lock()
	defer k.mu.Unlock()
	clear(k.memory.Tickets[tunnel])
	if state == nil {
		delete(k.memory.Tickets, tunnel)
	} else {
		if k.memory.Tickets == nil {
			k.memory.Tickets = make(map[string][]byte)
		}
		k.memory.Tickets[tunnel] = state
	}
	k.changed()
}

// retain forgets the tickets of tunnels that are not wanted any more.
func (k *keeper) retain(wanted func(tunnel string) bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	before := len(k.memory.Tickets)
	maps.DeleteFunc(k.memory.Tickets, func(tunnel string, _ []byte) bool { return !wanted(tunnel) })
	if len(k.memory.Tickets) != before {
		k.changed()
	}
}

func (k *keeper) changed() {
	select {
	case k.change <- struct{}{}:
	default:
	}
}

// run saves until stop is closed, and then once more if that is due.
func (k *keeper) run(stop <-chan struct{}) {
	for {
		select {
		case <-k.change:
			k.save()
		case <-stop:
			select {
			case <-k.change:
				k.save()
			default:
			}
			return
		}
		select {
		case <-time.After(savePause):
		case <-stop:
		}
	}
}

func (k *keeper) save() {
	k.mu.Lock()
	if k.keys != nil {
		k.memory.TicketKeys = k.keys.Save()
	}
	b, err := json.Marshal(k.memory)
	k.mu.Unlock()
	if err == nil {
		err = k.store.Save(b)
	}
	clear(b)
	if err != nil {
		k.logger.Warn("cannot save what the engine is to remember; after a restart, peers will notice it late", "error", err)
	}
}

// remember loads what survived the last restart.
func (e *Engine) remember() (err error) {
	if e.config.Store == nil {
		return nil
	}
	if e.keeper, err = newKeeper(e.config.Store, e.config.Rand, e.config.Logger); err != nil {
		return err
	}
	if e.tokens, err = e.keeper.tokens(); err != nil {
		return err
	}
	e.tickets, err = ike.NewTicketKeys(e.config.Rand, e.keeper.memory.TicketKeys, e.keeper.changed)
	if err != nil {
		e.config.Logger.Warn("the keys of tickets are begun anew", "error", err)
		e.tickets, err = ike.NewTicketKeys(e.config.Rand, nil, e.keeper.changed)
	}
	e.keeper.keys = e.tickets
	return err
}
