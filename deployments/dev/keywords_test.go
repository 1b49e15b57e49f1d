package main

import (
	"testing"

	"github.com/swanherd/swanherd/ipsec/suite"
	"github.com/swanherd/swanherd/server/model"
)

// The controller decides which proposals may be stored, the edge which it can
// run, and neither imports the other: what one accepts, the other must.
func TestControllerAndEdgeKnowTheSameProposals(t *testing.T) {
	words := []string{
		"aes128gcm16", "aes192gcm16", "aes256gcm16", "chacha20poly1305", "aes128gcm12", "aes192gcm12", "aes256gcm12",
		"aes128gcm8", "aes192gcm8", "aes256gcm8", "aes128ccm16", "aes192ccm16", "aes256ccm16", "aes128ccm12", "aes256ccm12",
		"aes128ccm8", "aes256ccm8", "aes128", "aes192", "aes256", "aes128ctr", "aes192ctr", "aes256ctr", "3des", "null", "aes128gmac", "aes256gmac",
		"md5", "sha1", "sha256", "sha384", "sha512", "aesxcbc", "prfmd5", "prfsha1", "prfsha256", "prfsha384", "prfsha512", "prfaesxcbc",
		"x25519", "ecp256", "ecp384", "ecp521", "modp1024", "modp2048", "modp3072", "modp4096", "modpnone", "esn", "noesn", "aes", "",
		"aes128gcm128", "aes192gcm96", "aes256gcm64", "aes128ccm64", "aes256ccm96", "aes192cbc", "curve25519", "sha2_256",
	}
	several := []string{
		"x25519", "curve25519", "modpnone", "mlkem768", "mlkem1024", "ke1_mlkem768", "ke1_none", "ke1_x25519", "ke1_curve25519",
		"ke2_mlkem768", "ke7_ecp256", "ke8_ecp256", "ke0_ecp256", "ke1_", "ke1_mlkem512", "ke1_modpnone", "ke_1_x25519", "ke1", "esn",
	}
	check := func(text string) {
		_, err := suite.ParseIKE(text)
		if _, ok := model.CheckProposal(model.ProposalIKE, text); ok != (err == nil) {
			t.Errorf("IKE proposal %q: the controller accepts it: %v; the edge says: %v", text, ok, err)
		}
		_, err = suite.ParseESP(text)
		if _, ok := model.CheckProposal(model.ProposalESP, text); ok != (err == nil) {
			t.Errorf("ESP proposal %q: the controller accepts it: %v; the edge says: %v", text, ok, err)
		}
	}
	for _, a := range words {
		check(a)
		for _, b := range words {
			check(a + "-" + b)
			for _, c := range words {
				check(a + "-" + b + "-" + c)
			}
		}
	}
	for _, a := range several {
		for _, b := range several {
			for _, c := range several {
				check("aes128gcm16-prfsha256-" + a + "-" + b + "-" + c)
				check("aes128gcm16-" + a + "-" + b + "-" + c)
			}
		}
	}
	for _, p := range suite.DefaultIKE() {
		if v, ok := model.CheckProposal(model.ProposalIKE, p.String()); !ok {
			t.Errorf("the default IKE proposal %s: %s", p, v.Problem)
		}
	}
}
