package wire

// AuthMethod is the way in which a peer proves its identity.
type AuthMethod uint8

// Authentication methods (IANA IKEv2 Authentication Method).
const (
	AuthRSA              AuthMethod = 1
	AuthSharedKey        AuthMethod = 2
	AuthECDSAP256        AuthMethod = 9
	AuthECDSAP384        AuthMethod = 10
	AuthECDSAP521        AuthMethod = 11
	AuthGSPM             AuthMethod = 12
	AuthNull             AuthMethod = 13 // RFC 7619
	AuthDigitalSignature AuthMethod = 14 // RFC 7427
)

var authMethodNames = map[AuthMethod]string{
	AuthRSA: "RSA", AuthSharedKey: "PSK", AuthECDSAP256: "ECDSA_P256", AuthECDSAP384: "ECDSA_P384",
	AuthECDSAP521: "ECDSA_P521", AuthGSPM: "GSPM", AuthNull: "NULL", AuthDigitalSignature: "DIGITAL_SIGNATURE",
}

func (m AuthMethod) String() string { return nameOf(authMethodNames, m, "AuthMethod") }

// HashAlgorithm is announced by SIGNATURE_HASH_ALGORITHMS, two octets each.
type HashAlgorithm uint16

// Hash algorithms (IANA IKEv2 Hash Algorithms; RFC 7427, RFC 8420).
const (
	HashSHA1     HashAlgorithm = 1
	HashSHA256   HashAlgorithm = 2
	HashSHA384   HashAlgorithm = 3
	HashSHA512   HashAlgorithm = 4
	HashIdentity HashAlgorithm = 5 // the signature scheme hashes itself, as Ed25519
)

var hashAlgorithmNames = map[HashAlgorithm]string{
	HashSHA1: "SHA1", HashSHA256: "SHA2-256", HashSHA384: "SHA2-384", HashSHA512: "SHA2-512", HashIdentity: "IDENTITY",
}

func (h HashAlgorithm) String() string { return nameOf(hashAlgorithmNames, h, "HashAlgorithm") }

// Auth is the Authentication payload (RFC 7296, Section 3.8).
type Auth struct {
	Method AuthMethod
	Data   []byte
}

// PayloadType implements Payload.
func (*Auth) PayloadType() PayloadType { return PayloadAuth }

func parseAuth(r *reader) *Auth {
	p := &Auth{Method: AuthMethod(r.u8())}
	r.skip(3) // RESERVED
	p.Data = r.rest()
	return p
}

func (p *Auth) check() error {
	if len(p.Data) == 0 {
		return invalid("no authentication data")
	}
	return nil
}

func (p *Auth) size() int { return 4 + len(p.Data) }

func (p *Auth) appendTo(b []byte) []byte {
	b = append(b, uint8(p.Method), 0, 0, 0)
	return append(b, p.Data...)
}
