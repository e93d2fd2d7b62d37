package raftstore

import (
	"errors"
	"fmt"
	"io"
	"sync/atomic"

	"github.com/hashicorp/raft"
)

// fsm is the thin layer between Raft and the machine. Raft calls it from one
// goroutine; only a snapshot's Persist runs concurrently.
type fsm struct {
	machine *machine
	history *history
	applied *appliedIndex
	digests *digestLog
	// checkpoints gets the state after each checkpoint.
	checkpoints *checkpoints
	metrics     *metrics
	levels      *levelState
	// halt is called when an entry cannot be judged.
	halt func(error)
	// announce is called for every applied batch.
	announce func(announcement)
	// configured is called for every configuration that was applied, restored after a
	// snapshot was.
	configured func(index uint64, servers []raft.Server)
	restored   func(index uint64)
	halted     bool
	// passed is the index up to which Raft has passed the log or a snapshot. It is below the
	// applied index for a while after a start, see disk.replay.
	passed uint64
	// haltedAt is the index of the entry that cannot be judged. It is committed, so the
	// next start replays it and fails if it still cannot be judged.
	haltedAt atomic.Uint64
	// Log applied since the last snapshot was taken.
	logBytes   atomic.Uint64
	logEntries atomic.Uint64
}

var _ raft.BatchingFSM = (*fsm)(nil)

// Apply implements raft.FSM.
func (f *fsm) Apply(l *raft.Log) any {
	return f.ApplyBatch([]*raft.Log{l})[0]
}

// ApplyBatch implements raft.BatchingFSM. The answer to a command is the
// []outcome of its txns, or ErrHalted if the replica has halted.
func (f *fsm) ApplyBatch(logs []*raft.Log) []any {
	answers := make([]any, len(logs))
	var changes []change
	var last, term uint64
	for i, l := range logs {
		f.passed = l.Index
		if f.halted {
			answers[i] = ErrHalted
			continue
		}
		if l.Index <= f.applied.get() {
			continue // Open has applied it already, see disk.replay
		}
		if l.Type != raft.LogCommand {
			last, term = l.Index, l.Term
			f.takeConfiguration(l)
			continue
		}
		outcomes, more, err := f.machine.apply(l.Data)
		if err != nil {
			f.fail(l.Index, err)
			answers[i] = ErrHalted
			continue
		}
		last, term = l.Index, l.Term
		for j := range outcomes {
			outcomes[j].index = l.Index
		}
		f.digests.add(l.Index, f.machine.digest)
		if len(outcomes) == 0 {
			f.checkpoints.capture(f.machine.snapshot(l.Index))
		}
		f.logBytes.Add(uint64(len(l.Data)))
		f.logEntries.Add(1)
		f.metrics.entries.Inc()
		answers[i] = outcomes
		changes = append(changes, more...)
	}
	if last > 0 {
		f.publish(changes)
		f.digests.extend(last)
		f.applied.set(last)
		f.announce(announcement{index: last, entryTerm: term})
	}
	return answers
}

// publish makes the state of the machine visible, with the changes that led to it.
func (f *fsm) publish(changes []change) {
	f.history.publish(f.machine, changes)
	f.setLevel()
}

// setLevel tells the replica the feature level of the machine's state.
func (f *fsm) setLevel() {
	if l, err := levelOf(f.machine.tree); err == nil { // no other record gets into the tree
		f.levels.now.Store(l.level)
	}
}

// checkLevel returns why this version cannot work with the state.
func (f *fsm) checkLevel() error {
	level, err := levelOf(f.machine.tree)
	if err != nil {
		return err
	}
	return level.checkKnown(f.levels.known)
}

// fail halts the replica before it can diverge.
func (f *fsm) fail(index uint64, err error) {
	f.halted = true
	f.haltedAt.Store(index)
	f.halt(haltedError(index, err))
}

func haltedError(index uint64, err error) error {
	return fmt.Errorf("%w: apply log index %d: %w", ErrHalted, index, err)
}

// committed returns the index up to which the log is known to be committed.
func (f *fsm) committed() uint64 { return max(f.applied.get(), f.haltedAt.Load()) }

// Snapshot implements raft.FSM. It only takes references.
func (f *fsm) Snapshot() (raft.FSMSnapshot, error) {
	if f.halted {
		// The entry that cannot be judged must stay in the log.
		return nil, ErrHalted
	}
	if f.passed > 0 && f.passed < f.applied.get() {
		// Raft would give the snapshot an index that is lower than that of the state.
		return nil, raft.ErrNothingNewToSnapshot
	}
	return f.machine.snapshot(f.applied.get()), nil
}

// errOlderSnapshot: the state of this replica is later than a snapshot.
var errOlderSnapshot = errors.New("the snapshot is older than the state")

// Restore implements raft.FSM. It refuses a snapshot that is older than the state, see
// meshTransport.passSnapshot. Readers must not be taken back, and Raft would drop the log that
// led to the state.
func (f *fsm) Restore(r io.ReadCloser) error {
	m, index, err := readSnapshot(r, f.machine.constraints, f.levels.known)
	if errors.Is(err, ErrFeatureLevel) {
		f.halted = true
		f.halt(fmt.Errorf("%w: restore snapshot: %w", ErrHalted, err))
	}
	if err != nil {
		return fmt.Errorf("restore snapshot: %w", err)
	}
	if applied := f.applied.get(); index < applied {
		return fmt.Errorf("%w: it ends at log index %d, the state at %d", errOlderSnapshot, index, applied)
	}
	f.passed = index
	f.machine = m
	f.digests.reset(index, m.digest)
	f.checkpoints.reset()
	f.history.reset(m)
	f.setLevel()
	f.applied.set(index)
	f.restored(index)
	return nil
}

// takeConfiguration reports the configuration in an entry, if there is one.
func (f *fsm) takeConfiguration(l *raft.Log) {
	if l.Type == raft.LogConfiguration {
		f.configured(l.Index, raft.DecodeConfiguration(l.Data).Servers)
	}
}

// replay applies an entry read back from disk before raft starts. It hashes no state:
// whoever still needs a checkpoint asks for a new one.
func (f *fsm) replay(l *raft.Log) error {
	if l.Type == raft.LogCommand {
		_, changes, err := f.machine.apply(l.Data)
		if err != nil {
			f.haltedAt.Store(l.Index)
			return haltedError(l.Index, err)
		}
		f.digests.add(l.Index, f.machine.digest)
		f.logBytes.Add(uint64(len(l.Data)))
		f.logEntries.Add(1)
		f.publish(changes)
	}
	f.takeConfiguration(l)
	if l.Type == raft.LogCommand || l.Type == raft.LogConfiguration {
		f.digests.extend(l.Index)
		f.applied.set(l.Index)
	}
	return nil
}
