package gossip

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"

	"github.com/hashicorp/go-msgpack/v2/codec"
)

// memberlist has no callback for suspicions, and its callback for departures does not
// say whether the member died or left. But memberlist passes on every change of state
// that it accepts, so its own outgoing packets tell both, at most one gossip interval
// later. This file reads those packets. It relies only on the parts of the wire format
// that memberlist has to keep so that mixed versions work together: type bytes,
// compound and checksum framing, and AES-GCM encryption version 1.

// The message types of memberlist's wire protocol that the tap reads.
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

// rumour holds the fields that the suspect, alive and dead messages have in common.
type rumour struct {
	Incarnation uint32
	Node        string
	From        string
}

// tap reads rumours out of packets.
type tap struct {
	// keys returns the keys to try, none if packets are not encrypted.
	keys func() [][]byte
	// wants reports whether messages of a type must be decoded at the moment.
	wants func(kind byte) bool
	heard func(kind byte, r rumour)
}

// readPacket reads one packet as it goes over the network. It ignores anything that it
// does not understand: memberlist decides what is valid. It returns false for a packet
// that was not encrypted with one of the keys.
func (t *tap) readPacket(b []byte) bool {
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
	t.readMessage(b)
	return true
}

func (t *tap) readMessage(b []byte) {
	if len(b) < 2 {
		return
	}
	switch b[0] {
	case wireCompound:
		t.readCompound(b[1:])
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

// readCompound reads the parts of a compound message, which is a count, that many
// lengths, and the parts.
func (t *tap) readCompound(b []byte) {
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
			t.readMessage(parts[:size])
		}
		parts = parts[size:]
	}
}

// openPacket decrypts a packet with the first key that fits. It returns nil if no key
// fits.
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
