package wire

import "testing"

func TestCertGolden(t *testing.T) {
	testGolden(t, &Cert{Encoding: CertX509Signature, Data: []byte{0x30, 0x00}}, `
		00 00 [0007]  # no next payload, length 7
		04            # X.509 Certificate - Signature
		3000          # DER
	`)
}

func TestCertMalformed(t *testing.T) {
	testMalformed(t, PayloadCert, "needed", "")
	testMalformed(t, PayloadCert, "no certificate data", "04")
	testUnsendable(t, &Cert{Encoding: CertX509Signature}, "no certificate data")
}
