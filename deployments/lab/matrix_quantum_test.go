package lab_test

import "slices"

// quantumCases have additional key exchanges (RFC 9370): in IKE_INTERMEDIATE
// (RFC 9242) when the IKE SA is made, in IKE_FOLLOWUP_KE when an SA is rekeyed.
func quantumCases(long bool) []interopCase {
	ikeSuites := []string{
		"aes256gcm16-prfsha384-x25519-ke1_mlkem768",
		"aes256gcm16-prfsha512-ecp384-ke1_mlkem1024",
		"aes256-sha256-x25519-ke1_mlkem768-ke2_ecp384",
		"aes128gcm16-prfsha256-x25519-ke1_ecp256-ke2_ecp384-ke3_mlkem768",
	}
	espSuites := []string{
		"aes128gcm16-x25519",
		"aes256gcm16-x25519-ke1_mlkem768",
		"aes256-sha256-ecp256-ke1_mlkem1024-ke2_x25519",
		"aes256gcm16",
	}
	var out []interopCase
	for i, s := range ikeSuites {
		for j, e := range espSuites {
			if long || i == j {
				out = append(out, each(interopCase{name: "hybrid/" + s + "," + e, ike: s, esp: e, steps: eachRekey()})...)
			}
		}
	}
	hybrid, pfs := ikeSuites[0], espSuites[1]
	return slices.Concat(out, redirectCases(false),
		each(interopCase{name: "hybrid/certificates of many fragments", ike: hybrid, auth: "rsa3072+rsa3072", intermediate: true, options: "  fragment_size = 576", steps: eachRekey()}),
		each(interopCase{name: "hybrid/behind NAT", ike: hybrid, esp: pfs, nat: [2]bool{true, true}, steps: eachRekey()}),
		each(interopCase{name: "hybrid/crossing rekeys", ike: hybrid, esp: pfs, steps: []step{crossing(rekeysChild, rekeysChild), crossing(rekeysIKE, rekeysIKE), crossing(rekeysChild, rekeysIKE), crossing(rekeysIKE, rekeysChild)}}),
		each(interopCase{
			name: "hybrid/optional for ours", ike: "aes256gcm16-prfsha384-x25519-ke1_mlkem768-ke1_none", theirIKE: "aes256gcm16-prfsha384-x25519",
			wantIKE: "aes256gcm16-prfsha384-x25519", steps: eachRekey(),
		}),
		each(interopCase{
			name: "hybrid/optional for theirs", ike: "aes256gcm16-prfsha384-x25519", theirIKE: "aes256gcm16-prfsha384-x25519-ke1_mlkem768-ke1_none",
			steps: eachRekey(),
		}),
		[]interopCase{
			{name: "hybrid/refused/ours", ike: hybrid, theirIKE: "aes256gcm16-prfsha384-x25519", fails: "NO_PROPOSAL_CHOSEN"},
			{name: "hybrid/refused/theirs", initiates: theirs, ike: hybrid, theirIKE: "aes256gcm16-prfsha384-x25519", fails: "NO_PROPOSAL_CHOSEN"},
		},
	)
}
