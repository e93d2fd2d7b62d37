package raftstore

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"sync"
	"time"
)

// A checkpoint is a log entry without txns. It changes nothing but the digest. Every
// replica that applies it hashes its whole state, in the background. So replicas can
// compare their states as they are, not only how they came about: a replica that got its
// state as a snapshot knows from nothing else that the snapshot was right. A checkpoint
// is made only when somebody asks for one.

// stateHash is the hash of the whole state after a checkpoint.
type stateHash [sha256.Size]byte

// String returns the beginning of the hash, for messages.
func (h stateHash) String() string { return hex.EncodeToString(h[:6]) }

// stateHashFormat begins what is hashed. What follows does not depend on the format of
// snapshots, because replicas of several versions must find the same hash.
const stateHashFormat = "virtmesh state 2"

// hash returns the hash of the state. The reasons of refusals are not part of it, for the
// same reason for which they are not part of the digest.
func (s *snapshot) hash() stateHash {
	sum := sha256.New()
	w := &snapshotWriter{w: bufio.NewWriterSize(sum, 64<<10)}
	w.string(stateHashFormat)
	w.uvarint(s.index)
	w.uvarint(s.revision)
	w.uvarint(s.seq)
	w.raw(s.digest[:])
	w.uvarint(uint64(len(s.requests)))
	for i := range s.requests {
		r := &s.requests[i]
		w.string(r.id)
		w.uvarint(uint64(r.sum))
		w.uvarint(uint64(r.kind))
		w.uvarint(uint64(r.ops))
		w.uvarint(r.revision)
	}
	w.uvarint(uint64(s.tree.Len()))
	s.tree.Scan(func(r *stored) bool {
		value := r.value.value()
		w.string(r.key)
		w.uvarint(r.createRevision)
		w.uvarint(r.modRevision)
		w.uvarint(uint64(len(value)))
		w.raw(value)
		return true
	})
	_ = w.w.Flush() // a hash takes everything
	return stateHash(sum.Sum(nil))
}

// hashedCheckpoint is the hash of the state after the checkpoint at a log index.
type hashedCheckpoint struct {
	index uint64
	hash  stateHash
}

// keptCheckpoints is how many hashes a replica keeps: what the voters sign arrives a
// little after the checkpoint that it is about.
const keptCheckpoints = 8

// checkpoints hashes the state after the newest checkpoints. If they come faster than
// they can be hashed, it leaves some out.
type checkpoints struct {
	captured *latest[capturedState]

	mu      sync.Mutex
	hashed  []hashedCheckpoint // oldest first
	resets  int
	applied time.Time // when the last checkpoint was applied
}

// capturedState is a state that is to be hashed. It counts only as long as no snapshot has
// replaced it.
type capturedState struct {
	state  *snapshot
	resets int
}

func newCheckpoints() *checkpoints { return &checkpoints{captured: newLatest[capturedState]()} }

// capture takes the state after a checkpoint. It does not block.
func (c *checkpoints) capture(s *snapshot) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.applied = time.Now()
	c.captured.put(capturedState{s, c.resets})
}

// lastApplied returns when the last checkpoint was applied.
func (c *checkpoints) lastApplied() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.applied
}

// hashLoop hashes captured states until closing is closed.
func (c *checkpoints) hashLoop(closing <-chan struct{}) {
	for {
		select {
		case <-c.captured.wake:
		case <-closing:
			return
		}
		if taken := c.captured.takeNewest(); taken.state != nil {
			c.add(hashedCheckpoint{taken.state.index, taken.state.hash()}, taken.resets)
		}
	}
}

// add keeps the hash after a checkpoint, unless a snapshot has replaced the state.
func (c *checkpoints) add(h hashedCheckpoint, resets int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if resets != c.resets {
		return
	}
	if len(c.hashed) == keptCheckpoints {
		c.hashed = append(c.hashed[:0], c.hashed[1:]...)
	}
	c.hashed = append(c.hashed, h)
}

// reset forgets all hashes, when a snapshot has replaced the state.
func (c *checkpoints) reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.captured.takeNewest()
	c.hashed, c.applied = nil, time.Time{}
	c.resets++
}

// newest returns the hash after the newest checkpoint, the zero value if there is none.
func (c *checkpoints) newest() hashedCheckpoint {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.hashed) == 0 {
		return hashedCheckpoint{}
	}
	return c.hashed[len(c.hashed)-1]
}

// at returns the hash after the checkpoint at index.
func (c *checkpoints) at(index uint64) (stateHash, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, h := range c.hashed {
		if h.index == index {
			return h.hash, true
		}
	}
	return stateHash{}, false
}

// checkpointPause is the least time between two checkpoints that a leader makes, whoever
// asks for them.
const checkpointPause = 10 * time.Second

// checkpointGate holds back checkpoints that are asked for too often.
type checkpointGate struct {
	mu   sync.Mutex
	last time.Time
}

// pass reports whether a checkpoint may be made now.
func (g *checkpointGate) pass() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.last.IsZero() && time.Since(g.last) < checkpointPause {
		return false
	}
	g.last = time.Now()
	return true
}

// makeCheckpoint makes a checkpoint as the leader, unless the last one is too recent.
func (s *Store) makeCheckpoint() error {
	if !s.IsLeader() {
		return errNotLeader
	}
	if !s.checkpointGate.pass() {
		return nil
	}
	if err := s.raft.Apply(encodeEntry(s.FeatureLevel(), nil), s.cfg.Timing.RPC).Error(); err != nil {
		return fmt.Errorf("make checkpoint: %w", classify(err))
	}
	return nil
}
