package wire

// TransformType says what a transform is for.
type TransformType uint8

// Transform types (IANA IKEv2 Transform Type Values).
const (
	TransformEncryption      TransformType = 1
	TransformPRF             TransformType = 2
	TransformIntegrity       TransformType = 3
	TransformKeyExchange     TransformType = 4
	TransformSequenceNumbers TransformType = 5
	TransformAdditionalKE1   TransformType = 6 // RFC 9370
	TransformAdditionalKE2   TransformType = 7
	TransformAdditionalKE3   TransformType = 8
	TransformAdditionalKE4   TransformType = 9
	TransformAdditionalKE5   TransformType = 10
	TransformAdditionalKE6   TransformType = 11
	TransformAdditionalKE7   TransformType = 12
	TransformKeyWrap         TransformType = 13
	TransformGroupController TransformType = 14
)

var transformTypeNames = map[TransformType]string{
	TransformEncryption: "ENCR", TransformPRF: "PRF", TransformIntegrity: "INTEG",
	TransformKeyExchange: "KE", TransformSequenceNumbers: "SN",
	TransformAdditionalKE1: "ADDKE1", TransformAdditionalKE2: "ADDKE2", TransformAdditionalKE3: "ADDKE3",
	TransformAdditionalKE4: "ADDKE4", TransformAdditionalKE5: "ADDKE5", TransformAdditionalKE6: "ADDKE6",
	TransformAdditionalKE7: "ADDKE7", TransformKeyWrap: "KWA", TransformGroupController: "GCAUTH",
}

func (t TransformType) String() string { return nameOf(transformTypeNames, t, "TransformType") }

// IsAdditionalKE reports whether t is one of the seven additional key
// exchanges of RFC 9370.
func (t TransformType) IsAdditionalKE() bool {
	return t >= TransformAdditionalKE1 && t <= TransformAdditionalKE7
}

// EncryptionID is the Transform ID of an encryption algorithm.
type EncryptionID uint16

// Encryption algorithms (IANA Transform Type 1).
const (
	Encryption3DES                EncryptionID = 3
	EncryptionNull                EncryptionID = 11
	EncryptionAESCBC              EncryptionID = 12
	EncryptionAESCTR              EncryptionID = 13
	EncryptionAESCCM8             EncryptionID = 14
	EncryptionAESCCM12            EncryptionID = 15
	EncryptionAESCCM16            EncryptionID = 16
	EncryptionAESGCM8             EncryptionID = 18
	EncryptionAESGCM12            EncryptionID = 19
	EncryptionAESGCM16            EncryptionID = 20
	EncryptionNullAESGMAC         EncryptionID = 21
	EncryptionCamelliaCBC         EncryptionID = 23
	EncryptionChaCha20Poly1305    EncryptionID = 28
	EncryptionAESCCM8IIV          EncryptionID = 29
	EncryptionAESGCM16IIV         EncryptionID = 30
	EncryptionChaCha20Poly1305IIV EncryptionID = 31
)

var encryptionNames = map[EncryptionID]string{
	Encryption3DES: "ENCR_3DES", EncryptionNull: "ENCR_NULL",
	EncryptionAESCBC: "ENCR_AES_CBC", EncryptionAESCTR: "ENCR_AES_CTR",
	EncryptionAESCCM8: "ENCR_AES_CCM_8", EncryptionAESCCM12: "ENCR_AES_CCM_12", EncryptionAESCCM16: "ENCR_AES_CCM_16",
	EncryptionAESGCM8: "ENCR_AES_GCM_8", EncryptionAESGCM12: "ENCR_AES_GCM_12", EncryptionAESGCM16: "ENCR_AES_GCM_16",
	EncryptionNullAESGMAC: "ENCR_NULL_AUTH_AES_GMAC", EncryptionCamelliaCBC: "ENCR_CAMELLIA_CBC",
	EncryptionChaCha20Poly1305: "ENCR_CHACHA20_POLY1305", EncryptionAESCCM8IIV: "ENCR_AES_CCM_8_IIV",
	EncryptionAESGCM16IIV: "ENCR_AES_GCM_16_IIV", EncryptionChaCha20Poly1305IIV: "ENCR_CHACHA20_POLY1305_IIV",
}

func (e EncryptionID) String() string { return nameOf(encryptionNames, e, "ENCR") }

// PRFID is the Transform ID of a pseudorandom function.
type PRFID uint16

// Pseudorandom functions (IANA Transform Type 2).
const (
	PRFHMACMD5    PRFID = 1
	PRFHMACSHA1   PRFID = 2
	PRFAES128XCBC PRFID = 4
	PRFHMACSHA256 PRFID = 5
	PRFHMACSHA384 PRFID = 6
	PRFHMACSHA512 PRFID = 7
	PRFAES128CMAC PRFID = 8
)

var prfNames = map[PRFID]string{
	PRFHMACMD5: "PRF_HMAC_MD5", PRFHMACSHA1: "PRF_HMAC_SHA1", PRFAES128XCBC: "PRF_AES128_XCBC",
	PRFHMACSHA256: "PRF_HMAC_SHA2_256", PRFHMACSHA384: "PRF_HMAC_SHA2_384",
	PRFHMACSHA512: "PRF_HMAC_SHA2_512", PRFAES128CMAC: "PRF_AES128_CMAC",
}

func (p PRFID) String() string { return nameOf(prfNames, p, "PRF") }

// IntegrityID is the Transform ID of an integrity algorithm.
type IntegrityID uint16

// Integrity algorithms (IANA Transform Type 3).
const (
	IntegrityNone       IntegrityID = 0
	IntegrityHMACMD5    IntegrityID = 1
	IntegrityHMACSHA1   IntegrityID = 2
	IntegrityAESXCBC    IntegrityID = 5
	IntegrityAESCMAC    IntegrityID = 8
	IntegrityAES128GMAC IntegrityID = 9
	IntegrityAES192GMAC IntegrityID = 10
	IntegrityAES256GMAC IntegrityID = 11
	IntegrityHMACSHA256 IntegrityID = 12
	IntegrityHMACSHA384 IntegrityID = 13
	IntegrityHMACSHA512 IntegrityID = 14
)

var integrityNames = map[IntegrityID]string{
	IntegrityNone: "AUTH_NONE", IntegrityHMACMD5: "AUTH_HMAC_MD5_96", IntegrityHMACSHA1: "AUTH_HMAC_SHA1_96",
	IntegrityAESXCBC: "AUTH_AES_XCBC_96", IntegrityAESCMAC: "AUTH_AES_CMAC_96",
	IntegrityAES128GMAC: "AUTH_AES_128_GMAC", IntegrityAES192GMAC: "AUTH_AES_192_GMAC", IntegrityAES256GMAC: "AUTH_AES_256_GMAC",
	IntegrityHMACSHA256: "AUTH_HMAC_SHA2_256_128", IntegrityHMACSHA384: "AUTH_HMAC_SHA2_384_192",
	IntegrityHMACSHA512: "AUTH_HMAC_SHA2_512_256",
}

func (i IntegrityID) String() string { return nameOf(integrityNames, i, "AUTH") }

// KeyExchangeID is the Transform ID of a key exchange method, once called
// Diffie-Hellman group.
type KeyExchangeID uint16

// Key exchange methods (IANA Transform Type 4).
const (
	KeyExchangeNone          KeyExchangeID = 0
	KeyExchangeMODP768       KeyExchangeID = 1
	KeyExchangeMODP1024      KeyExchangeID = 2
	KeyExchangeMODP1536      KeyExchangeID = 5
	KeyExchangeMODP2048      KeyExchangeID = 14
	KeyExchangeMODP3072      KeyExchangeID = 15
	KeyExchangeMODP4096      KeyExchangeID = 16
	KeyExchangeMODP6144      KeyExchangeID = 17
	KeyExchangeMODP8192      KeyExchangeID = 18
	KeyExchangeECP256        KeyExchangeID = 19
	KeyExchangeECP384        KeyExchangeID = 20
	KeyExchangeECP521        KeyExchangeID = 21
	KeyExchangeBrainpoolP224 KeyExchangeID = 27 // brainpoolP224r1
	KeyExchangeBrainpoolP256 KeyExchangeID = 28 // brainpoolP256r1
	KeyExchangeBrainpoolP384 KeyExchangeID = 29 // brainpoolP384r1
	KeyExchangeBrainpoolP512 KeyExchangeID = 30 // brainpoolP512r1
	KeyExchangeCurve25519    KeyExchangeID = 31
	KeyExchangeCurve448      KeyExchangeID = 32
	KeyExchangeMLKEM512      KeyExchangeID = 35
	KeyExchangeMLKEM768      KeyExchangeID = 36
	KeyExchangeMLKEM1024     KeyExchangeID = 37
)

var keyExchangeNames = map[KeyExchangeID]string{
	KeyExchangeNone: "NONE", KeyExchangeMODP768: "MODP_768", KeyExchangeMODP1024: "MODP_1024",
	KeyExchangeMODP1536: "MODP_1536", KeyExchangeMODP2048: "MODP_2048", KeyExchangeMODP3072: "MODP_3072",
	KeyExchangeMODP4096: "MODP_4096", KeyExchangeMODP6144: "MODP_6144", KeyExchangeMODP8192: "MODP_8192",
	KeyExchangeECP256: "ECP_256", KeyExchangeECP384: "ECP_384", KeyExchangeECP521: "ECP_521",
	KeyExchangeBrainpoolP224: "BRAINPOOL_P224R1", KeyExchangeBrainpoolP256: "BRAINPOOL_P256R1",
	KeyExchangeBrainpoolP384: "BRAINPOOL_P384R1", KeyExchangeBrainpoolP512: "BRAINPOOL_P512R1",
	KeyExchangeCurve25519: "CURVE25519", KeyExchangeCurve448: "CURVE448",
	KeyExchangeMLKEM512: "ML_KEM_512", KeyExchangeMLKEM768: "ML_KEM_768", KeyExchangeMLKEM1024: "ML_KEM_1024",
}

func (k KeyExchangeID) String() string { return nameOf(keyExchangeNames, k, "KE") }

// SequenceNumbersID is the Transform ID of the sequence numbers of AH and ESP.
type SequenceNumbersID uint16

// Sequence numbers (IANA Transform Type 5).
const (
	SequenceNumbers32       SequenceNumbersID = 0 // 32-bit
	SequenceNumbersExtended SequenceNumbersID = 1 // 64-bit, RFC 4304
)

var sequenceNumbersNames = map[SequenceNumbersID]string{
	SequenceNumbers32: "NO_ESN", SequenceNumbersExtended: "ESN",
}

func (s SequenceNumbersID) String() string { return nameOf(sequenceNumbersNames, s, "SN") }
