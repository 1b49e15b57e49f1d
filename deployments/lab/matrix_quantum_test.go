package lab_test

import "slices"

// quantumCases have additional key exchanges (RFC 9370) in IKE_INTERMEDIATE
// (RFC 9242).
func quantumCases(bool) []interopCase {
	ikeSuites := []string{
		"aes256gcm16-prfsha384-x25519-ke1_mlkem768",
		"aes256gcm16-prfsha512-ecp384-ke1_mlkem1024",
		"aes256-sha256-x25519-ke1_mlkem768-ke2_ecp384",
		"aes128gcm16-prfsha256-x25519-ke1_ecp256-ke2_ecp384-ke3_mlkem768",
	}
	var out []interopCase
	for _, s := range ikeSuites {
		out = append(out, each(interopCase{name: "hybrid/" + s, ike: s, steps: []step{rekeyChild(ours), rekeyChild(theirs)}})...)
	}
	hybrid := ikeSuites[0]
	return slices.Concat(out,
		each(interopCase{name: "hybrid/certificates of many fragments", ike: hybrid, auth: "rsa3072+rsa3072", intermediate: true, options: "  fragment_size = 576"}),
		each(interopCase{name: "hybrid/behind NAT", ike: hybrid, nat: [2]bool{true, true}}),
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
