// Package esp protects and opens packets of ESP (RFC 4303), one [Outbound] or
// [Inbound] per security association, and of AH (RFC 4302), one [AHOutbound] or
// [AHInbound].
//
// It owns the packet format from the SPI to the integrity check value, the
// sequence numbers of 32 and of 64 bits, the anti-replay window and the
// algorithms of ESP: AES-GCM and ChaCha20-Poly1305; AES-CCM, and AES-CBC and AES-CTR
// with an integrity algorithm, for peers that have nothing better; AES-GMAC, and none with
// an integrity algorithm, where nothing is to be hidden. ESP never sees an outer header. It
// does no input or output, and decides nothing about lifetime or policy: traffic selectors,
// UDP encapsulation and what becomes of a packet are the data plane's.
//
// AH authenticates the IP header before it too. It is put into a whole IP packet, the
// sender's own (transport mode) or an outer header with a packet in it (tunnel mode), and
// taken out again. Its algorithms are HMAC, AES-XCBC and AES-GMAC.
//
// Sealing and opening neither allocate nor copy the payload more than the
// cipher itself does: Seal writes ciphertext straight behind what is in its
// output buffer, Open decrypts in place.
//
// Not done: re-synchronisation after more than 2^32 consecutive lost packets
// (RFC 4303, Appendix A3); dead peer detection ends the SA long before.
//
// # Concurrency
//
// An Outbound or Inbound belongs to one goroutine at a time. Distinct ones are
// independent.
//
// # Standards
//
// RFC 4303 (ESP; Appendix A2: extended sequence numbers), RFC 4302 (AH), RFC 4106 (AES-GCM),
// RFC 7634 (ChaCha20-Poly1305), RFC 4309 (AES-CCM), RFC 3602 (AES-CBC), RFC 3686
// (AES-CTR), RFC 4868 (HMAC-SHA-2), RFC 4543 (AES-GMAC), RFC 2410 (NULL), RFC 6479 (the window as a ring).
package esp
