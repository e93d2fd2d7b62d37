package objectstest

import (
	"bytes"
	"fmt"
	"strings"
	"sync/atomic"

	"virtmesh/agent/kinds"
	"virtmesh/agent/objects"
)

// Sealer is an objects.Transformer for tests. A sealed value is not JSON, contains no
// readable part of the plain value, can only be opened at its key, and differs each
// time. It is not encryption.
type Sealer struct{ sealed atomic.Int64 }

var _ objects.Transformer = (*Sealer)(nil)

// Seal implements objects.Transformer.
func (s *Sealer) Seal(storeKey string, plain []byte) ([]byte, error) {
	return fmt.Appendf(nil, "sealed %d %s %s", s.sealed.Add(1), storeKey, invertBits(plain)), nil
}

// Open implements objects.Transformer. It refuses a value that was sealed for another
// key.
func (s *Sealer) Open(storeKey string, stored []byte) ([]byte, error) {
	parts := bytes.SplitN(stored, []byte(" "), 4)
	if len(parts) != 4 || string(parts[0]) != "sealed" || string(parts[2]) != storeKey {
		return nil, fmt.Errorf("the value at %s was not sealed for that key", storeKey)
	}
	return invertBits(parts[3]), nil
}

// Sealed reports whether value was made by a Sealer and contains none of words.
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

// invertBits inverts every bit; applied twice it changes nothing.
func invertBits(b []byte) []byte {
	out := make([]byte, len(b))
	for i := range b {
		out[i] = ^b[i]
	}
	return out
}
