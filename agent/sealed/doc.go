// Package sealed encrypts what is secret in stored objects. The mesh has a pair of keys:
// anyone can seal with the public key, which is in the replicated state, and only who holds
// the private key, which is in the keyring of the voters, can open. Every write has a data
// key of its own, which encrypts the content (AES-256-GCM) and is itself sealed for the pair
// of keys (HPKE, RFC 9180: X25519, HKDF-SHA256, AES-256-GCM). Both are bound to the place of
// the object in the store and to its UID, so that what was sealed for one object cannot be
// opened as a part of another.
//
// What is sealed of an object are the fields that its kind names (kinds.Kind.Sealed), and the
// annotation in which kubectl keeps a copy of what was applied. The rest stays readable, so
// that lists, selectors, owners and finalizers work without a key.
//
// Vault is the use of all that by a host: it seals what is written, and opens what is read
// with the keys of this host, or with data keys that a voter hands out.
package sealed
