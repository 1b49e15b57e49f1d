package engine

import (
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"sync"

	"github.com/swanherd/swanherd/ipsec/dataplane"
	"github.com/swanherd/swanherd/ipsec/ike"
	"github.com/swanherd/swanherd/ipsec/wire"
)

// KeyLog is where the keys of all SAs are written for Wireshark, to find faults:
// whoever reads it reads the traffic, past and to come. Nothing is written where
// a writer is nil. The loops write themselves, so a writer must not be slow.
type KeyLog struct {
	// IKE gets lines of Wireshark's table ikev2_decryption_table. An IKE SA
	// with additional key exchanges has several sets of keys for the same
	// SPIs (RFC 9370, Section 2.2.2); Wireshark uses the last, so it does not
	// read IKE_INTERMEDIATE.
	IKE io.Writer
	// ESP gets lines of the table esp_sa. Of SAs with extended sequence
	// numbers Wireshark reads the packets and finds their integrity check
	// values wrong.
	ESP io.Writer
}

// keyLog serialises the writers.
type keyLog struct {
	KeyLog
	logger *slog.Logger

	mu     sync.Mutex
	failed bool
}

func (k *keyLog) write(w io.Writer, line string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if _, err := io.WriteString(w, line); err != nil && !k.failed {
		k.failed = true
		k.logger.Error("cannot write the key log", "error", err)
	}
}

// ike writes the keys of an IKE SA.
func (k *keyLog) ike(keys ike.IKEKeys) {
	if k.IKE != nil {
		k.write(k.IKE, ikeKeyLine(keys))
	}
}

// esp writes the keys of the SAs that are to be installed.
func (k *keyLog) esp(ops []dataplane.Op) {
	if k.ESP == nil {
		return
	}
	for _, op := range ops {
		if install, ok := op.(dataplane.InstallSA); ok {
			k.write(k.ESP, espKeyLine(install.SA))
		}
	}
}

// Names of algorithms as Wireshark's tables have them.
var (
	wiresharkIKECiphers = map[wire.EncryptionID]string{
		wire.EncryptionAESCBC:   "AES-CBC-%d [RFC3602]",
		wire.EncryptionAESCTR:   "AES-CTR-%d [RFC5930]",
		wire.EncryptionAESCCM8:  "AES-CCM-%d with 8 octet ICV [RFC5282]",
		wire.EncryptionAESCCM12: "AES-CCM-%d with 12 octet ICV [RFC5282]",
		wire.EncryptionAESCCM16: "AES-CCM-%d with 16 octet ICV [RFC5282]",
		wire.EncryptionAESGCM8:  "AES-GCM-%d with 8 octet ICV [RFC5282]",
		wire.EncryptionAESGCM12: "AES-GCM-%d with 12 octet ICV [RFC5282]",
		wire.EncryptionAESGCM16: "AES-GCM-%d with 16 octet ICV [RFC5282]",
	}
	wiresharkIKEIntegrity = map[wire.IntegrityID]string{
		wire.IntegrityNone:       "NONE [RFC4306]",
		wire.IntegrityHMACSHA1:   "HMAC_SHA1_96 [RFC2404]",
		wire.IntegrityHMACSHA256: "HMAC_SHA2_256_128 [RFC4868]",
		wire.IntegrityHMACSHA384: "HMAC_SHA2_384_192 [RFC4868]",
		wire.IntegrityHMACSHA512: "HMAC_SHA2_512_256 [RFC4868]",
		wire.IntegrityAESXCBC:    "ANY 96-bits of Authentication [No Checking]",
	}
	wiresharkESPCiphers = map[wire.EncryptionID]string{
		wire.EncryptionAESCBC:   "AES-CBC [RFC3602]",
		wire.EncryptionAESCTR:   "AES-CTR [RFC3686]",
		wire.EncryptionAESGCM8:  "AES-GCM with 8 octet ICV [RFC4106]",
		wire.EncryptionAESGCM12: "AES-GCM with 12 octet ICV [RFC4106]",
		wire.EncryptionAESGCM16: "AES-GCM with 16 octet ICV [RFC4106]",
	}
	wiresharkESPIntegrity = map[wire.IntegrityID]string{
		wire.IntegrityNone:       "NULL",
		wire.IntegrityHMACSHA1:   "HMAC-SHA-1-96 [RFC2404]",
		wire.IntegrityHMACSHA256: "HMAC-SHA-256-128 [RFC4868]",
		wire.IntegrityHMACSHA384: "HMAC-SHA-384-192 [RFC4868]",
		wire.IntegrityHMACSHA512: "HMAC-SHA-512-256 [RFC4868]",
		wire.IntegrityAESXCBC:    "ANY 96 bit authentication [no checking]",
	}
)

// ikeKeyLine is a line of ikev2_decryption_table: both SPIs, SK_ei, SK_er, the
// cipher, SK_ai, SK_ar, the integrity algorithm. One that Wireshark does not
// know makes it a comment.
func ikeKeyLine(k ike.IKEKeys) string {
	cipher, known := wiresharkIKECiphers[k.Suite.Encryption]
	if known {
		cipher = fmt.Sprintf(cipher, k.Suite.KeyBits)
	} else {
		cipher = k.Suite.String()
	}
	integrity, ok := wiresharkIKEIntegrity[k.Suite.Integrity]
	return comment(known && ok) + fmt.Sprintf("%s,%s,%x,%x,%q,%x,%x,%q\n",
		k.InitiatorSPI, k.ResponderSPI, k.Ei, k.Er, cipher, k.Ai, k.Ar, integrity)
}

// espKeyLine is a line of esp_sa: protocol, addresses, SPI, cipher with key and
// integrity algorithm with key. The addresses are left open, for a NAT changes
// them and MOBIKE too.
func espKeyLine(sa dataplane.SA) string {
	family := "IPv4"
	if sa.Remote.Addr().Is6() && !sa.Remote.Addr().Is4In6() {
		family = "IPv6"
	}
	cipher, known := wiresharkESPCiphers[sa.Suite.Encryption]
	if !known {
		cipher = sa.Suite.String()
	}
	integrity, ok := wiresharkESPIntegrity[sa.Suite.Integrity]
	n := sa.Suite.EncryptionKeyLen()
	return comment(known && ok) + fmt.Sprintf("%q,\"*\",\"*\",\"0x%08x\",%q,%q,%q,%q\n",
		family, sa.SPI, cipher, hexText(sa.Key[:n]), integrity, hexText(sa.Key[n:]))
}

func comment(known bool) string {
	if known {
		return ""
	}
	return "# not known to Wireshark: "
}

func hexText(key []byte) string {
	if len(key) == 0 {
		return ""
	}
	return "0x" + hex.EncodeToString(key)
}
