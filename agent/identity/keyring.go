package identity

import (
	"bytes"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
)

// ErrNoCAKey is returned where the key of the CA is needed on a host that does not hold it.
var ErrNoCAKey = errors.New("this host does not hold the key of the mesh's CA")

// caKeys are the private keys of CAs that a host holds. A value is never changed, only replaced.
type caKeys []caKey

// caKey is the private key of a CA. The CA is known by its pin, so that a key can be held before
// the host trusts the CA, and after.
type caKey struct {
	pin Pin
	pem []byte
}

// parseCAKeys reads keys as encode writes them: PEM blocks, one after the other. A version that
// knows one key takes the first. Each key is returned once.
func parseCAKeys(data []byte) (caKeys, error) {
	var keys caKeys
	for {
		block, rest := pem.Decode(data)
		if block == nil {
			break
		}
		one, err := newCAKey(pem.EncodeToMemory(block))
		if err != nil {
			return nil, fmt.Errorf("key %d: %w", len(keys)+1, err)
		}
		keys, data = keys.with(caKeys{one}), rest
	}
	if len(keys) == 0 && len(bytes.TrimSpace(data)) > 0 {
		return nil, errors.New("no private key found")
	}
	return keys, nil
}

// newCAKey returns a key (PEM) with its pin.
func newCAKey(data []byte) (caKey, error) {
	key, err := ParseKey(data)
	if err != nil {
		return caKey{}, err
	}
	pin, err := PinOfKey(&key.PublicKey)
	return caKey{pin: pin, pem: bytes.Clone(data)}, err
}

func (k caKeys) encode() []byte {
	var all []byte
	for _, key := range k {
		all = append(all, key.pem...)
	}
	return all
}

// with returns these keys and those of more that are not among them.
func (k caKeys) with(more caKeys) caKeys {
	all := slices.Clone(k)
	for _, key := range more {
		if all.of(key.pin) == nil {
			all = append(all, key)
		}
	}
	return all
}

// of returns the key (PEM) of the CA with a pin, or nil.
func (k caKeys) of(pin Pin) []byte {
	for _, key := range k {
		if key.pin == pin {
			return key.pem
		}
	}
	return nil
}

func (k caKeys) pins() []Pin {
	var pins []Pin
	for _, key := range k {
		pins = append(pins, key.pin)
	}
	return pins
}

// signing returns the first of some CAs of which there is a key.
func (k caKeys) signing(bundle []byte) (*CA, error) {
	certs, err := ParseCertificates(bundle)
	if err != nil {
		return nil, fmt.Errorf("mesh CA: %w", err)
	}
	for _, cert := range certs {
		if key := k.of(PinOf(cert)); key != nil {
			return ParseCA(EncodeCertificates(cert), key)
		}
	}
	return nil, ErrNoCAKey
}

// caKeys reads the private keys of CAs. The first host of a mesh must have that of its CA.
func (st State) caKeys() (caKeys, error) {
	keys, err := parseCAKeys(st.CAKey)
	if err != nil {
		return nil, fmt.Errorf("keys of CAs: %w", err)
	}
	if _, err := keys.signing(st.CABundle); st.Founder && err != nil {
		return nil, fmt.Errorf("the first host of a mesh must have the key of the CA: %w", err)
	}
	return keys, nil
}

// heldCAKeys returns the keyring of this host.
func (i *Identity) heldCAKeys() caKeys {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.caKeys
}

// signingCA returns the CA that this host can sign with: of those whose key it holds the one
// that stands first in what it trusts. Without one it returns ErrNoCAKey.
func (i *Identity) signingCA() (*CA, error) { return i.heldCAKeys().signing(i.CABundle()) }

// CAKey returns the private key, PEM, of the CA that this host can sign with (HeldCA), or nil.
// The caller must not change it.
func (i *Identity) CAKey() []byte {
	pin, ok := i.HeldCA()
	if !ok {
		return nil
	}
	return i.CAKeyOf(pin)
}

// HeldCA returns the pin of the CA that this host can sign with, and whether there is one: it
// stands first among those that the host trusts and whose key it holds.
func (i *Identity) HeldCA() (Pin, bool) {
	ca, err := i.signingCA()
	if err != nil {
		return Pin{}, false
	}
	return ca.Pin(), true
}

// HeldCAs returns the pins of all CAs whose keys this host holds.
func (i *Identity) HeldCAs() []Pin { return i.heldCAKeys().pins() }

// HoldsCAKey reports whether this host holds the key of the CA with a pin.
func (i *Identity) HoldsCAKey(pin Pin) bool { return i.CAKeyOf(pin) != nil }

// CAKeyOf returns this host's copy of the private key, PEM, of the CA with a pin, or nil. The
// caller must not change it.
func (i *Identity) CAKeyOf(pin Pin) []byte { return i.heldCAKeys().of(pin) }

// KeepCAKey puts the private key (PEM) of a CA into the keyring of this host, on disk and in
// memory, beside those that are there. The caller makes sure whose key it is: the keyring knows
// it by its pin, and signs with it only what asks for the CA with that pin.
func (i *Identity) KeepCAKey(key []byte) error {
	add, err := newCAKey(key)
	if err != nil {
		return fmt.Errorf("keep the key of the CA: %w", err)
	}
	i.beginToWrite()
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.caKeys.of(add.pin) != nil {
		return nil
	}
	return i.replaceCAKeys(append(slices.Clone(i.caKeys), add), false)
}

// DropCAKeysBut deletes this host's copies of the private keys of all CAs but those with some
// pins, and, if it holds all of these, what it cannot open and what was put aside. The caller
// makes sure that other hosts hold what the mesh still needs.
func (i *Identity) DropCAKeysBut(pins ...Pin) error {
	i.beginToWrite()
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.founder {
		return errors.New("drop the key of the CA: the mesh's state does not hold the CA yet")
	}
	left := slices.DeleteFunc(slices.Clone(i.caKeys), func(key caKey) bool { return !slices.Contains(pins, key.pin) })
	ends := !slices.ContainsFunc(pins, func(pin Pin) bool { return left.of(pin) == nil })
	if len(left) == len(i.caKeys) && !(ends && i.secretFiles.leftOver(fileCAKey)) {
		return nil
	}
	return i.replaceCAKeys(left, ends)
}

// DropCAKey deletes this host's copies of the private keys of all CAs; see DropCAKeysBut.
func (i *Identity) DropCAKey() error { return i.DropCAKeysBut() }

// replaceCAKeys is called with i.mu held. ends is as in secretFiles.write.
func (i *Identity) replaceCAKeys(keys caKeys, ends bool) error {
	i.sealed = i.sealed && !ends // sealing keys may have nothing left to open
	if err := i.secretFiles.write(fileCAKey, keys.encode(), ends); err != nil {
		return fmt.Errorf("change the keys of CAs: %w", err)
	}
	i.caKeys = keys
	return nil
}
