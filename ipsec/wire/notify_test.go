package wire

import (
	"bytes"
	"testing"
)

func TestNotifyGolden(t *testing.T) {
	testGolden(t, &Notify{Protocol: ProtocolESP, SPI: []byte{1, 2, 3, 4}, Kind: NotifyRekeySA}, `
		00 00 [000c]  # no next payload, length 12
		03 [04] 4009  # ESP, SPI of 4, REKEY_SA
		01020304      # SPI
	`)
	testGolden(t, &Notify{Kind: NotifyInvalidKEPayload, Data: []byte{0, 19}}, `
		00 00 [000a]
		00 [00] 0011  # no protocol, no SPI, INVALID_KE_PAYLOAD
		0013          # the group that is wanted
	`)
}

// Without an SPI the protocol field means nothing (RFC 7296, Section 3.10).
func TestNotifyIgnoresProtocolWithoutSPI(t *testing.T) {
	ps, err := ParsePayloads(PayloadNotify, dump(t, "00000008 0100000e").octets)
	if err != nil {
		t.Fatal(err)
	}
	if got := ps[0].(*Notify); got.Protocol != ProtocolNone || got.Kind != NotifyNoProposalChosen {
		t.Errorf("parsed %+v", got)
	}
	_, out, err := AppendPayloads(nil, ps)
	if want := dump(t, "00000008 0000000e").octets; err != nil || !bytes.Equal(out, want) {
		t.Errorf("AppendPayloads %x, %v, want %x", out, err, want)
	}
}

func TestNotifyMalformed(t *testing.T) {
	testMalformed(t, PayloadNotify, "needed", "030040")
	testMalformed(t, PayloadNotify, "needed", "03044009 010203")
	testMalformed(t, PayloadNotify, "SPI of 3 octets, want 4 for ESP", "03034009 010203")
	testMalformed(t, PayloadNotify, "SPI of 4 octets, want none or 8 for IKE", "01044009 01020304")
	testUnsendable(t, &Notify{Protocol: ProtocolESP, Kind: NotifyRekeySA}, "without an SPI")
	testUnsendable(t, &Notify{SPI: count(256)}, "at most 255")
}

func TestNotifyTypeIsError(t *testing.T) {
	for kind, want := range map[NotifyType]bool{
		NotifyInvalidSyntax: true, NotifyTSMaxQueue: true, 16383: true,
		NotifyInitialContact: false, NotifyPPKIdentityKey: false, 65535: false,
	} {
		if kind.IsError() != want {
			t.Errorf("%s: IsError %t, want %t", kind, !want, want)
		}
	}
}
