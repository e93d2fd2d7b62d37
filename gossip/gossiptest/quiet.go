package gossiptest

import (
	"encoding/binary"
	"time"
)

// The message types of memberlist's wire protocol that carry probes, and the compound
// type. All other messages are rumours. A compound message that carries a probe has it
// as its first part.
const (
	wirePing         = 0
	wireIndirectPing = 1
	wireAck          = 2
	wireCompound     = 7
	wireNack         = 11
)

// A quiet network removes the rumours from packets and nothing else. It cannot decrypt
// packets, so the mesh must not use keys.

// drain waits, on a quiet network, until no member sends rumours any more.
func (n *Network) drain() {
	for before := uint64(0); ; {
		time.Sleep(time.Second)
		after := n.rumours.Load()
		if after == before {
			return
		}
		before = after
	}
}

// hush returns a packet without its rumours, or nil if nothing is left.
func (n *Network) hush(b []byte) []byte {
	switch {
	case isProbe(b):
		return b
	case len(b) > 4 && b[0] == wireCompound:
		n.rumours.Add(1)
		first := 2 + 2*int(b[1])
		size := int(binary.BigEndian.Uint16(b[2:]))
		if first+size <= len(b) && isProbe(b[first:first+size]) {
			return b[first : first+size]
		}
	default:
		n.rumours.Add(1)
	}
	return nil
}

func isProbe(b []byte) bool {
	if len(b) == 0 {
		return false
	}
	switch b[0] {
	case wirePing, wireIndirectPing, wireAck, wireNack:
		return true
	}
	return false
}
