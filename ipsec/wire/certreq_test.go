package wire

import "testing"

func TestCertReqGolden(t *testing.T) {
	testGolden(t, &CertReq{Encoding: CertX509Signature, Data: count(20)}, `
		00 00 [0019]  # no next payload, length 25
		04            # X.509 Certificate - Signature
		000102030405060708090a0b0c0d0e0f10111213  # SHA-1 of the authority's key
	`)
}

func TestCertReqMalformed(t *testing.T) {
	testMalformed(t, PayloadCertReq, "needed", "")
}
