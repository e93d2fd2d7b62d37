package objectstest

import (
	"bytes"
	"fmt"
	"strings"
	"sync/atomic"

	"virtmesh/agent/kinds"
	"virtmesh/agent/objects"
)

// Sealer is an objects.Transformer for tests. What it makes of a value is not JSON,
// holds nothing of the value that could be read, belongs to one key, and is
// different each time. It is no encryption.
type Sealer struct{ sealed atomic.Int64 }

var _ objects.Transformer = (*Sealer)(nil)

// Seal implements objects.Transformer.
func (s *Sealer) Seal(storeKey string, plain []byte) ([]byte, error) {
	return fmt.Appendf(nil, "sealed %d %s %s", s.sealed.Add(1), storeKey, mirror(plain)), nil
}

// Open implements objects.Transformer. It refuses what was sealed for another key.
func (s *Sealer) Open(storeKey string, stored []byte) ([]byte, error) {
	parts := bytes.SplitN(stored, []byte(" "), 4)
	if len(parts) != 4 || string(parts[0]) != "sealed" || string(parts[2]) != storeKey {
		return nil, fmt.Errorf("%s holds nothing that was sealed for it", storeKey)
	}
	return mirror(parts[3]), nil
}

// Sealed reports whether value was made by a Sealer and shows nothing of words.
func Sealed(value []byte, words ...string) bool {
	if !bytes.HasPrefix(value, []byte("sealed ")) {
		return false
	}
	_, content, _ := strings.Cut(string(value), kinds.Root)
	_, content, _ = strings.Cut(content, " ")
	for _, word := range words {
		if strings.Contains(content, word) {
			return false
		}
	}
	return true
}

// mirror turns every bit over; done twice it changes nothing.
func mirror(b []byte) []byte {
	out := make([]byte, len(b))
	for i := range b {
		out[i] = ^b[i]
	}
	return out
}
