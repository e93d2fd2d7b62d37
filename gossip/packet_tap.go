package gossip

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"

	"github.com/hashicorp/go-msgpack/v2/codec"
)

// memberlist has no callback for suspicion, and its callback for departures
// does not say whether the member died or left. But every change of state that
// a member accepts it also passes on, so its own outgoing packets tell both, at
// most one gossip interval later. This file reads them. It knows the wire
// format that memberlist has to keep for mixed versions to work together: type
// bytes, compound and checksum framing, and AES-GCM encryption version 1.

// The message types of memberlist's wire protocol that are looked at.
const (
	wireSuspect  = 3
	wireAlive    = 4
	wireDead     = 5
	wireCompound = 7
	wireChecksum = 12
	wireLabel    = 244
)

const (
	wireCryptVersion = 1
	wireNonce        = 12
)

// rumour is what the suspect, alive and dead messages have in common.
type rumour struct {
	Incarnation uint32
	Node        string
	From        string
}

// tap reads rumours out of packets.
type tap struct {
	// keys returns the keys to try, none if packets are in the clear.
	keys func() [][]byte
	// wants says which message types are of interest right now, so that
	// nothing else is decoded.
	wants func(kind byte) bool
	heard func(kind byte, r rumour)
}

// packet reads one packet as it goes over the network. Anything it does not
// understand is ignored: memberlist is the judge of what is valid. It reports
// false for a packet that was not made with one of the keys.
func (t *tap) packet(b []byte) bool {
	var label []byte
	if len(b) >= 2 && b[0] == wireLabel {
		n := int(b[1])
		if len(b) < 2+n {
			return false
		}
		label, b = b[2:2+n], b[2+n:]
	}
	if keys := t.keys(); len(keys) > 0 {
		if b = openPacket(keys, b, label); b == nil {
			return false
		}
	}
	if len(b) >= 5 && b[0] == wireChecksum {
		b = b[5:]
	}
	t.message(b)
	return true
}

func (t *tap) message(b []byte) {
	if len(b) < 2 {
		return
	}
	switch b[0] {
	case wireCompound:
		t.compound(b[1:])
	case wireSuspect, wireAlive, wireDead:
		if !t.wants(b[0]) {
			return
		}
		var r rumour
		var h codec.MsgpackHandle
		if err := codec.NewDecoderBytes(b[1:], &h).Decode(&r); err == nil && r.Node != "" {
			t.heard(b[0], r)
		}
	}
}

// compound splits a compound message: a count, that many lengths, the parts.
func (t *tap) compound(b []byte) {
	n := int(b[0])
	lengths := b[1:]
	if len(lengths) < 2*n {
		return
	}
	parts := lengths[2*n:]
	for i := range n {
		size := int(binary.BigEndian.Uint16(lengths[2*i:]))
		if size > len(parts) {
			return
		}
		if size > 0 && parts[0] != wireCompound {
			t.message(parts[:size])
		}
		parts = parts[size:]
	}
}

// openPacket decrypts a packet with the first key that fits, and returns nil
// if none does.
func openPacket(keys [][]byte, b, label []byte) []byte {
	if len(b) < 1+wireNonce || b[0] != wireCryptVersion {
		return nil
	}
	nonce, sealed := b[1:1+wireNonce], b[1+wireNonce:]
	for _, key := range keys {
		block, err := aes.NewCipher(key)
		if err != nil {
			continue
		}
		gcm, err := cipher.NewGCM(block)
		if err != nil {
			continue
		}
		if plain, err := gcm.Open(nil, nonce, sealed, label); err == nil {
			return plain
		}
	}
	return nil
}
