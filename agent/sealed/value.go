package sealed

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// envelope is the member of a stored object that holds what is sealed of it. It is the first
// member, and no object of any kind has one of that name.
type envelope struct {
	Key     string `json:"key"`
	Wrapped []byte `json:"wrapped"`
	// Content is a content, encrypted with the data key; the nonce comes first.
	Content []byte `json:"content"`
}

const envelopeName = "sealed"

// content is what an envelope holds: what was taken out of the object, and in which order the
// object and its metadata were written, so that opening it gives the same bytes again.
type content struct {
	Fields   map[string]json.RawMessage `json:"fields,omitempty"`
	Applied  json.RawMessage            `json:"applied,omitempty"`
	Order    []string                   `json:"order"`
	Metadata []string                   `json:"metadata"`
}

// head is how a stored value begins that has an envelope.
var head = []byte(`{"` + envelopeName + `":`)

// IsSealed reports whether a stored value has an envelope.
func IsSealed(value []byte) bool {
	if bytes.HasPrefix(value, head) {
		return true
	}
	// Who rewrites the metadata of an object of an unknown kind sorts its members.
	if !bytes.Contains(value, head[1:]) {
		return false
	}
	object, err := parseMembers(value)
	return err == nil && object.get(envelopeName) != nil
}

// sealValue returns the stored form of an object: with an envelope instead of its fields.
func sealValue(with PublicKey, storeKey string, value []byte, fields []string) (stored []byte, lock Lock, dataKey []byte, err error) {
	object, err := parseMembers(value)
	if err != nil {
		return nil, lock, nil, err
	}
	metadata, err := parseMembers(object.get("metadata"))
	if err != nil {
		return nil, lock, nil, fmt.Errorf("metadata: %w", err)
	}
	c := content{Fields: map[string]json.RawMessage{}, Order: object.names(), Metadata: metadata.names()}
	if c.Applied, err = metadata.takeAnnotation(corev1.LastAppliedConfigAnnotation); err != nil {
		return nil, lock, nil, err
	}
	if c.Applied != nil {
		object.set("metadata", metadata.encode())
	}
	for _, name := range fields {
		if taken := object.get(name); taken != nil {
			c.Fields[name] = taken
			object.remove(name)
		}
	}
	dataKey = make([]byte, dataKeySize)
	rand.Read(dataKey)
	if lock, err = with.wrap(storeKey, metadata.text("uid"), dataKey); err != nil {
		return nil, lock, nil, err
	}
	e := envelope{Key: lock.Key, Wrapped: lock.Wrapped}
	if e.Content, err = encrypt(dataKey, lock, c); err != nil {
		return nil, lock, nil, err
	}
	sealed, err := json.Marshal(e)
	if err != nil {
		return nil, lock, nil, err
	}
	object = slices.Insert(object, 0, member{envelopeName, sealed})
	return object.encode(), lock, dataKey, nil
}

// parsed is a stored object with an envelope.
type parsed struct {
	lock     Lock
	object   members
	metadata members
	content  []byte
}

func parseSealed(storeKey string, stored []byte) (parsed, error) {
	object, err := parseMembers(stored)
	if err != nil {
		return parsed{}, err
	}
	var e envelope
	if err := json.Unmarshal(object.get(envelopeName), &e); err != nil {
		return parsed{}, fmt.Errorf("read what is sealed: %w", err)
	}
	metadata, err := parseMembers(object.get("metadata"))
	if err != nil {
		return parsed{}, fmt.Errorf("metadata: %w", err)
	}
	object.remove(envelopeName)
	lock := Lock{Key: e.Key, Object: storeKey, UID: metadata.text("uid"), Wrapped: e.Wrapped}
	return parsed{lock: lock, object: object, metadata: metadata, content: e.Content}, nil
}

// open returns the value that was sealed, with what others have changed of its readable part.
func (p parsed) open(dataKey []byte) ([]byte, error) {
	c, err := decrypt(dataKey, p.lock, p.content)
	if err != nil {
		return nil, err
	}
	object := p.object
	for name, value := range c.Fields {
		object.set(name, value)
	}
	if c.Applied != nil {
		metadata := p.metadata
		if err := metadata.addAnnotation(corev1.LastAppliedConfigAnnotation, c.Applied); err != nil {
			return nil, err
		}
		object.set("metadata", metadata.inOrder(c.Metadata).encode())
	}
	return object.inOrder(c.Order).encode(), nil
}

func newGCM(dataKey []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(dataKey)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

func encrypt(dataKey []byte, lock Lock, c content) ([]byte, error) {
	gcm, err := newGCM(dataKey)
	if err != nil {
		return nil, err
	}
	plain, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	return gcm.Seal(nil, nil, plain, lock.bound()), nil
}

func decrypt(dataKey []byte, lock Lock, sealed []byte) (content, error) {
	var c content
	gcm, err := newGCM(dataKey)
	if err != nil {
		return c, err
	}
	plain, err := gcm.Open(nil, nil, sealed, lock.bound())
	if err != nil {
		return c, errors.Join(fmt.Errorf("what is sealed of %s was changed", lock.Object), err)
	}
	return c, json.Unmarshal(plain, &c)
}
