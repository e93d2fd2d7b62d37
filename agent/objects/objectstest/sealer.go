package objectstest

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"sync/atomic"

	"virtmesh/agent/kinds"
	"virtmesh/agent/objects"
	"virtmesh/raftstore"
)

// Sealer is an objects.Transformer for tests. A sealed value is not JSON, contains no
// readable part of the plain value, can only be opened at its key, and differs each
// time. It is not encryption.
type Sealer struct {
	sealed atomic.Int64
	// While returns the condition under which a sealed value may be stored; nil: none.
	While func() raftstore.Condition
	// Fails returns why no value can be opened now; nil: they can.
	Fails func() error
}

var _ objects.Transformer = (*Sealer)(nil)

// Touches implements objects.Transformer.
func (s *Sealer) Touches(prefix string) bool { return true }

// Seal implements objects.Transformer. The value may be stored while While holds.
func (s *Sealer) Seal(_ context.Context, storeKey string, plain []byte) ([]byte, raftstore.Condition, error) {
	var while raftstore.Condition
	if s.While != nil {
		while = s.While()
	}
	return fmt.Appendf(nil, "sealed %d %s %s", s.sealed.Add(1), storeKey, invertBits(plain)), while, nil
}

// Open implements objects.Transformer. It opens no value that was sealed for another key.
func (s *Sealer) Open(_ context.Context, records []raftstore.Record) ([][]byte, error) {
	if s.Fails != nil {
		if err := s.Fails(); err != nil {
			return nil, err
		}
	}
	values := make([][]byte, len(records))
	for i, rec := range records {
		parts := bytes.SplitN(rec.Value, []byte(" "), 4)
		if len(parts) == 4 && string(parts[0]) == "sealed" && string(parts[2]) == rec.Key {
			values[i] = invertBits(parts[3])
		}
	}
	return values, nil
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
