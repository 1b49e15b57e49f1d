package wire_test

import (
	"fmt"

	"github.com/swanherd/swanherd/ipsec/wire"
)

func ExampleParse() {
	request := wire.Message{
		Header: wire.Header{
			InitiatorSPI: wire.SPI{7: 1}, Major: 2,
			Exchange: wire.ExchangeIKESAInit, Flags: wire.FlagInitiator,
		},
		Payloads: []wire.Payload{
			&wire.Nonce{Data: make([]byte, 32)},
			&wire.Notify{Kind: wire.NotifyFragmentationSupported},
		},
	}
	datagram, err := request.Append(nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	received, err := wire.Parse(datagram)
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, p := range received.Payloads {
		switch p := p.(type) {
		case *wire.Nonce:
			fmt.Println(received.Exchange, "nonce of", len(p.Data), "octets")
		case *wire.Notify:
			fmt.Println(received.Exchange, p.Kind)
		}
	}
	_, err = wire.Parse(datagram[:40])
	fmt.Println(err)
	// Output:
	// IKE_SA_INIT nonce of 32 octets
	// IKE_SA_INIT IKEV2_FRAGMENTATION_SUPPORTED
	// parse IKE header at octet 24: length field says 72, the message has 40 octets
}
