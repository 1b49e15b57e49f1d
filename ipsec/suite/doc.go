// Package suite holds the cryptographic algorithms of IKEv2 and ESP: their
// negotiation in proposals, the key exchange, the key schedule and the
// protection of IKE messages.
//
// It decides which algorithms exist here and in what combinations, and it
// refuses the combinations that the standards forbid. It does no I/O, holds no
// state of an exchange, and logs nothing; randomness comes from its caller, but
// for the encapsulation of ML-KEM, for which the standard library takes its own.
// ESP packets are not its business: it names their algorithms, makes their keys
// and has the ciphers that IKE uses too.
//
// An algorithm is offered, accepted and used only after it gave a known answer
// once in this process.
//
// Keys appear in no error and no String. Values with keys have a Destroy
// method, which overwrites what is reachable; the standard library keeps
// expanded cipher keys and private scalars in memory that it alone can clear.
//
// Concurrency: functions and proposals may be used by several goroutines at
// once. A KeyExchange and a Protector belong to one goroutine at a time.
//
// Standards:
//
//   - RFC 7296, Sections 2.7, 2.10, 2.13, 2.14, 2.17, 2.18, 3.3 and 3.14:
//     negotiation, nonces, key schedule, Encrypted payload
//   - RFC 9370, Sections 2.2.1, 2.2.2 and 2.2.4: additional key exchanges
//   - RFC 8784, Section 3, and RFC 9867: post-quantum preshared keys
//   - FIPS 203: ML-KEM-768 and ML-KEM-1024
//   - RFC 8247 and RFC 8221: which algorithms to implement for IKEv2 and ESP
//   - RFC 5282, RFC 4106: AES-GCM with ICVs of 16, 12 and 8 octets; RFC 4309:
//     AES-CCM with the same
//   - RFC 7634: ChaCha20-Poly1305
//   - RFC 3602: AES-CBC; RFC 3686, RFC 5930: AES-CTR; both with an integrity
//     algorithm only
//   - RFC 4868: HMAC-SHA2 for integrity and as PRF; RFC 2404: HMAC-SHA1; RFC
//     3566, RFC 4434: AES-XCBC
//   - RFC 8031, RFC 7748: X25519; RFC 5903: ECP groups 256, 384 and 521; RFC
//     3526: MODP groups of 2048, 3072 and 4096 bits; RFC 6989: checks of public
//     values
//
// How the rules are read where the standards leave room:
//
//   - The responder's order decides, over the whole policy, not the order of
//     the offer (RFC 7296, Section 2.7, lets it choose any).
//   - A malformed or foreign proposal is skipped and the next one considered
//     (Section 3.3.6); an answer that is not one transform of each offered type
//     ends the exchange.
//   - A combined-mode cipher goes with no integrity algorithm, or with NONE as
//     the only one; in both cases the answer repeats what the offer had
//     (Sections 2.7 and 3.3).
//   - An unknown transform type makes a proposal unacceptable; an unknown
//     attribute, only its transform (Section 3.3.6).
//   - Of the key exchange methods that both ends have, the best combination in
//     which none is used twice is chosen (RFC 9370, Section 2.2.1), even if a
//     later one has to be taken for the first exchange.
//   - AES needs the Key Length attribute (RFC 5282, Section 7.3), and no other
//     algorithm here may have one (RFC 7296, Section 3.3.5).
//   - Nonces have at least half the key length of the PRF that was chosen
//     (Section 2.10), so an offer with PRF-HMAC-SHA2-512 needs 32 octets.
//   - The IV of combined-mode ciphers and of AES-CTR is a counter kept by the
//     Protector (RFC 5282, Section 3.1), that of CBC its encryption (Section
//     3.14: unpredictable). Sent padding is the least; any padding is accepted.
//   - A private value serves one exchange (Section 2.12).
//
// Every row of RFC 8221 and RFC 8247 stands in a test (rfc8247_test.go) with
// what is done about it. No default offers what they call MUST- (SHA-1), for the
// Internet of Things (AES-CCM, AES-XCBC) or MAY (short ICVs, AES-CTR, keys of 192
// bits), nor MODP groups: they are for peers that have nothing better.
//
// Left out on purpose: 3DES, MD5, MODP groups below 2048 bits or with small
// subgroups (RFC 8247, Section 2.4), AES-CCM with 192 bits and implicit IVs.
package suite
