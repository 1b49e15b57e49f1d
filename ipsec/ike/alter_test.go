package ike

import (
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"

	"github.com/cockroachdb/datadriven"

	"github.com/swanherd/swanherd/ipsec/wire"
)

// alter replaces the payloads of the first packet in a direction, as if its
// sender had made that message.
func (s *story) alter(d *datadriven.TestData) {
	i := s.find(direction(d), s.number(d, "at"))
	if i < 0 {
		s.w.note("nothing in flight\n")
		return
	}
	p := s.w.flight[i]
	h, err := wire.ParseHeader(p.data)
	if err != nil {
		s.t.Fatalf("%s: %v", d.Pos, err)
	}
	for _, sa := range p.from.t.sas {
		if sa.sealer == nil || h.InitiatorSPI != sa.localSPI && h.ResponderSPI != sa.localSPI {
			continue
		}
		datagrams, err := sa.protect(wire.Header{
			Exchange: h.Exchange, MessageID: h.MessageID, Flags: h.Flags & wire.FlagResponse,
		}, s.payloads(d))
		if err != nil {
			s.t.Fatalf("%s: %v", d.Pos, err)
		}
		p.data = datagrams[0]
		if h.IsResponse() {
			sa.window.response = datagrams
		} else if o := sa.window.outstanding; o != nil {
			o.datagrams = datagrams
		}
		s.w.note("%s is now %s\n", p, s.w.render(p.data))
		return
	}
	s.t.Fatalf("%s: %s has no keys for this message", d.Pos, p.from.name)
}

func (s *story) payloads(d *datadriven.TestData) []wire.Payload {
	var out []wire.Payload
	for _, a := range d.CmdArgs {
		switch a.Key {
		case "delete":
			del := &wire.Delete{Protocol: wire.ProtocolESP}
			for _, v := range a.Vals {
				spi, err := strconv.ParseUint(v, 16, 32)
				if err != nil {
					s.t.Fatalf("%s: SPI %q: %v", d.Pos, v, err)
				}
				del.SPIs = append(del.SPIs, put32(uint32(spi)))
			}
			out = append(out, del)
		case "delete-ike":
			out = append(out, &wire.Delete{Protocol: wire.ProtocolIKE})
		case "notify":
			out = append(out, &wire.Notify{Kind: s.notifyType(d, a.Vals[0])})
		case "data":
			data, err := hex.DecodeString(a.Vals[0])
			if err != nil {
				s.t.Fatalf("%s: data %q: %v", d.Pos, a.Vals[0], err)
			}
			out[len(out)-1].(*wire.Notify).Data = data
		}
	}
	return out
}

func (s *story) notifyType(d *datadriven.TestData, name string) wire.NotifyType {
	for kind := range 1 << 16 {
		if strings.EqualFold(fmt.Sprint(wire.NotifyType(kind)), name) {
			return wire.NotifyType(kind)
		}
	}
	s.t.Fatalf("%s: no notification %q", d.Pos, name)
	return 0
}
