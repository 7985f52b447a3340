package checkin

import (
	"crypto/ecdh"
	"crypto/hpke"
	"encoding/base64"
	"fmt"
	"strings"
)

// What an order seals is bound to that order by HPKE's info, so that it cannot be put into another one.
const sealInfo = "samehost/order-enrol/1"

// maxSealed bounds what is read of Order.Enrol: an enrolment token, its tag and the key take some 200 characters.
const maxSealed = 1024

// SealOrder seals an enrolment token to a host: sealKey is Report.SealKey, orderID the ID of the order that carries
// the result as Enrol. HPKE (RFC 9180) in base mode with DHKEM(X25519, HKDF-SHA256), HKDF-SHA256 and AES-256-GCM; info
// is "samehost/order-enrol/1" 0x00 order ID; written as the encapsulated key and the ciphertext in base64url without
// padding.
func SealOrder(sealKey []byte, orderID string, token EnrolmentToken) (string, error) {
	key, err := ecdh.X25519().NewPublicKey(sealKey)
	if err != nil {
		return "", fmt.Errorf("seal order %s: seal_key is no X25519 key: %w", orderID, err)
	}
	to, err := hpke.NewDHKEMPublicKey(key)
	if err != nil {
		return "", fmt.Errorf("seal order %s: %w", orderID, err)
	}
	sealed, err := hpke.Seal(to, hpke.HKDFSHA256(), hpke.AES256GCM(), []byte(sealInfo+"\x00"+orderID), []byte(token.Text()))
	if err != nil {
		return "", fmt.Errorf("seal order %s: %w", orderID, err)
	}
	return base64.RawURLEncoding.EncodeToString(sealed), nil
}

// OpenOrder opens what SealOrder made, with the host's sealing key (hostid.Seed.SealingKey). Its errors show nothing
// of what was sealed.
func OpenOrder(key hpke.PrivateKey, orderID, sealed string) (EnrolmentToken, error) {
	if len(sealed) > maxSealed || strings.ContainsAny(sealed, "\r\n") {
		return EnrolmentToken{}, fmt.Errorf("order %s: what is sealed in it has not the form of an enrolment token", orderID)
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(sealed)
	if err != nil {
		return EnrolmentToken{}, fmt.Errorf("order %s: what is sealed in it is not base64url", orderID)
	}
	text, err := hpke.Open(key, hpke.HKDFSHA256(), hpke.AES256GCM(), []byte(sealInfo+"\x00"+orderID), b)
	if err != nil {
		return EnrolmentToken{}, fmt.Errorf("order %s: what is sealed in it was not sealed for this host and this order", orderID)
	}
	t, err := ParseToken(string(text))
	if err != nil {
		return EnrolmentToken{}, fmt.Errorf("order %s: what is sealed in it is no enrolment token", orderID)
	}
	return t, nil
}
