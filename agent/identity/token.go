package identity

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base32"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
)

const (
	tokenVersion   = "vm1"
	tokenIDLen     = 8
	tokenSecretLen = 16
)

// ErrTokenFormat is returned for a string that is not a join token.
var ErrTokenFormat = errors.New("not a join token (want vm1.<id>.<secret>.<pin>)")

// idEncoding has only letters and digits that a person can type.
var idEncoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// Token is what the operator gives to a joining host: the token's ID, the secret that
// proves possession of it, and the pin by which the host recognises the mesh. Encode
// writes it as vm1.<id>.<secret>.<pin>.
type Token struct {
	// ID names the token in the store and in lists. It is no secret.
	ID string
	// Secret proves possession. Only its hash is stored.
	Secret [tokenSecretLen]byte
	// Pin is the pin of the mesh CA.
	Pin Pin
}

// NewToken makes a random token for the mesh whose CA has the given pin.
func NewToken(pin Pin) Token {
	t := Token{Pin: pin}
	var id [5]byte // 5 bytes are exactly 8 characters
	rand.Read(id[:])
	rand.Read(t.Secret[:])
	t.ID = idEncoding.EncodeToString(id[:])
	return t
}

// ParseToken reads a token. White space around it is ignored. The error never quotes
// the input, which may be a secret with a typing error.
func ParseToken(s string) (Token, error) {
	parts := strings.Split(strings.TrimSpace(s), ".")
	if len(parts) != 4 || parts[0] != tokenVersion {
		return Token{}, ErrTokenFormat
	}
	if !ValidTokenID(parts[1]) {
		return Token{}, fmt.Errorf("%w: bad id", ErrTokenFormat)
	}
	t := Token{ID: parts[1]}
	secret, err := base64.RawURLEncoding.Strict().DecodeString(parts[2])
	if err != nil || len(secret) != tokenSecretLen {
		return Token{}, fmt.Errorf("%w: bad secret", ErrTokenFormat)
	}
	copy(t.Secret[:], secret)
	if t.Pin, err = ParsePin(parts[3]); err != nil {
		return Token{}, fmt.Errorf("%w: bad pin", ErrTokenFormat)
	}
	// The base64 decoder skips line breaks; reject them, so that a token has exactly
	// one spelling.
	if t.Encode() != strings.TrimSpace(s) {
		return Token{}, ErrTokenFormat
	}
	return t, nil
}

// Encode returns the token with its secret, as it is handed to the new host.
func (t Token) Encode() string {
	return strings.Join([]string{tokenVersion, t.ID, base64.RawURLEncoding.EncodeToString(t.Secret[:]), t.Pin.String()}, ".")
}

// String hides the secret, so that logging a token by mistake does not reveal it.
func (t Token) String() string { return tokenVersion + "." + t.ID + ".***" }

// GoString hides the secret like String.
func (t Token) GoString() string { return t.String() }

// ValidTokenID reports whether id has the form of a token's id.
func ValidTokenID(id string) bool {
	if len(id) != tokenIDLen {
		return false
	}
	for _, c := range []byte(id) {
		if (c < 'a' || c > 'z') && (c < '2' || c > '7') {
			return false
		}
	}
	return true
}

func hashSecret(secret []byte) [sha256.Size]byte { return sha256.Sum256(secret) }

// sameSecret compares in constant time. A hash of the wrong length is no match.
func sameSecret(storedHash, secret []byte) bool {
	sum := hashSecret(secret)
	return subtle.ConstantTimeCompare(storedHash, sum[:]) == 1
}
