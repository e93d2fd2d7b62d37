// Package hostsealtest has a TPM for tests.
package hostsealtest

import (
	"bytes"
	"crypto/rand"
	"sync"

	"virtmesh/agent/hostseal"
)

// Chip is a TPM that can be cleared and taken out. The zero value is a new one, ready to use. Its
// methods may be called from any goroutine.
type Chip struct {
	mu   sync.Mutex
	seed []byte
	fail error
}

var _ hostseal.Chip = (*Chip)(nil)

// Fail makes every call return an error from now on; nil ends that. Fail(hostseal.ErrNoChip)
// takes the chip out.
func (c *Chip) Fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fail = err
}

// Clear makes the chip forget whatever it has sealed.
func (c *Chip) Clear() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seed = nil
}

// Wrap implements hostseal.Chip.
func (c *Chip) Wrap(secret []byte) ([]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fail != nil {
		return nil, c.fail
	}
	return append(bytes.Clone(c.current()), mask(secret)...), nil
}

// Unwrap implements hostseal.Chip.
func (c *Chip) Unwrap(wrapped []byte) ([]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fail != nil {
		return nil, c.fail
	}
	secret, ok := bytes.CutPrefix(wrapped, c.current())
	if !ok {
		return nil, hostseal.ErrOtherChip
	}
	return mask(secret), nil
}

func (c *Chip) current() []byte {
	if c.seed == nil {
		c.seed = make([]byte, 16)
		rand.Read(c.seed)
	}
	return c.seed
}

// mask makes a secret unlike itself, and itself again: tests look for secrets in files.
func mask(secret []byte) []byte {
	masked := bytes.Clone(secret)
	for i := range masked {
		masked[i] ^= 0xff
	}
	return masked
}
