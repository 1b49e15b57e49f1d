package edge

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pion/stun/v3"
	"google.golang.org/protobuf/proto"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// wan is a network in which each socket is seen as one of another address.
type wan struct {
	mu      sync.Mutex
	uplinks []*swanherdv1.Uplink
	asked   []string
	kept    []*swanherdv1.UplinkNat
	changed chan struct{}
	silent  bool
}

func (w *wan) set(addresses ...string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.uplinks = []*swanherdv1.Uplink{{Name: "wan1", Addresses: addresses, Port: 4500}}
}

func (w *wan) told() []*swanherdv1.Uplink {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.uplinks
}

func (w *wan) send(local, remote netip.AddrPort, request []byte, _ time.Time, answered func([]byte)) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asked = append(w.asked, local.String()+" "+remote.String())
	if w.silent {
		return errors.New("network is unreachable")
	}
	seen := &stun.XORMappedAddress{IP: []byte{203, 0, 113, local.Addr().As4()[3]}, Port: 31022}
	answer := stun.MustBuild(stun.NewTransactionIDSetter([12]byte(request[8:20])), stun.BindingSuccess, seen)
	time.AfterFunc(10*time.Millisecond, func() { answered(answer.Raw) })
	return nil
}

func (w *wan) lookup(_ context.Context, _, host string) ([]netip.Addr, error) {
	if host == "gone.example" {
		return nil, errors.New("no such host")
	}
	return []netip.Addr{netip.MustParseAddr(host)}, nil
}

func (w *wan) takeAsked() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := w.asked
	w.asked = nil
	slices.Sort(out)
	return out
}

// The uplinks that the controller is told of have with them how they look from outside: as
// soon as a session says where to ask, anew when they change, and what was known before a
// restart until then.
func TestUplinksAreToldAsTheyLookFromOutside(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &wan{changed: make(chan struct{}, 1)}
		w.set("192.168.1.2", "fe80::1")
		before := &swanherdv1.UplinkNat{Address: "192.168.1.2", MappedAddress: "203.0.113.99", MappedPort: 9}
		o := newOutside(outsideSource{
			told: w.told, changed: w.changed, send: w.send, lookup: w.lookup, known: []*swanherdv1.UplinkNat{before},
			keep: func(nats []*swanherdv1.UplinkNat) { w.kept = nats }, logger: slog.New(slog.DiscardHandler),
		})
		ctx, cancel := context.WithCancel(t.Context())
		var run sync.WaitGroup
		run.Go(func() { o.Run(ctx) })
		defer run.Wait()
		defer cancel()
		seen := func(what string, want ...*swanherdv1.UplinkNat) {
			t.Helper()
			time.Sleep(5 * time.Second)
			if got := o.Current()[0].GetNats(); !slices.EqualFunc(got, want, func(a, b *swanherdv1.UplinkNat) bool { return proto.Equal(a, b) }) {
				t.Errorf("%s: told of %v, want %v", what, got, want)
			}
		}
		nat := func(address, mapped string) *swanherdv1.UplinkNat {
			return &swanherdv1.UplinkNat{Address: address, MappedAddress: mapped, MappedPort: 31022, Mapping: swanherdv1.NatMapping_NAT_MAPPING_ENDPOINT_INDEPENDENT}
		}
		seen("before a session", before)

		o.Welcomed([]string{"198.51.100.1:7444", "gone.example:7444", "198.51.100.2:7444"}, []uint32{3478, 3479})
		seen("in a session", nat("192.168.1.2", "203.0.113.2"))
		<-o.Changed()
		if len(w.kept) != 1 || w.kept[0].GetMappedPort() != 31022 {
			t.Errorf("kept: %v", w.kept)
		}
		if got, want := w.takeAsked(), []string{"192.168.1.2:4500 198.51.100.1:3478", "192.168.1.2:4500 198.51.100.1:3479", "192.168.1.2:4500 198.51.100.2:3478"}; !slices.Equal(got, want) {
			t.Errorf("asked %v, want %v", got, want)
		}

		w.set("192.168.1.3")
		w.changed <- struct{}{}
		seen("with another address", nat("192.168.1.3", "203.0.113.3"))
		<-o.Changed()

		time.Sleep(time.Minute)
		w.takeAsked()
		w.silent = true
		o.Welcomed([]string{"gone.example:7444"}, []uint32{3478, 3479})
		seen("when the controller cannot be found", nat("192.168.1.3", "203.0.113.3"))
		o.Welcomed([]string{"198.51.100.1:7444"}, []uint32{3478, 3479})
		seen("when nothing can be sent", nat("192.168.1.3", "203.0.113.3"))
		if len(w.takeAsked()) == 0 {
			t.Error("not asked in another session")
		}
		o.Welcomed([]string{"198.51.100.1:7444"}, nil)
		seen("when the controller answers no STUN")
	})
}
