package raftstore

import (
	"encoding/binary"
	"fmt"

	"github.com/hashicorp/raft"
)

// A recovery and a restore continue from a copy. The group that they replace may have
// gone on from an earlier or the same state, and may have given out revisions that the
// copy knows nothing of. If the new group counted on from the copy, it would give out
// the same revisions for other writes: a watch of before would miss events, and a
// condition of before could hold by chance. So the new group begins a timeline of its
// own: its first revision is above all that the replaced group can have reached, every
// record has that revision, and all before it is compacted.

// leastLeap is by how much the revision grows where the clock does not say it, see
// timelineStart. The lost part of a group never had that many writes more than the copy.
const leastLeap = 1 << 32

// Founding returns the first writes of a new timeline. It gets the records of the copy,
// and the revision at which the timeline begins: every revision of before is below it.
type Founding func(state View, revision uint64) ([]Op, error)

// timelineStart returns the revision at which the timeline of a group begins that
// continues from a copy at the given revision. It is the time at which the group began,
// in microseconds: no group writes a million records a second for long, so no group that
// began earlier has a revision as high, even if it began at the same copy. If the clock
// was wrong and the copy is ahead of it, the revision leaps from that of the copy.
func (i incarnation) timelineStart(revision uint64) uint64 {
	if began := binary.BigEndian.Uint64(i[:]) / 1000; began > revision {
		return began
	}
	return revision + leastLeap
}

// beginTimeline moves the machine to the first revision of the group's timeline, gives
// every record that revision, and carries out the first writes.
func (m *machine) beginTimeline(group incarnation, found Founding) error {
	at := group.timelineStart(m.revision)
	next := newTree()
	m.tree.Scan(func(r *stored) bool {
		moved := *r
		moved.modRevision = at
		next.Set(&moved)
		return true
	})
	m.tree, m.revision = next, at
	if found == nil {
		return nil
	}
	ops, err := found(view{m.tree}, at)
	if err != nil {
		return fmt.Errorf("found the new group: %w", err)
	}
	m.writeOps(&Txn{Ops: ops}, nil)
	return nil
}

// recoveringFSM begins the new timeline at the moment when raft.RecoverCluster has
// applied the whole log and asks for the snapshot that replaces it.
type recoveringFSM struct {
	*fsm
	begin func() error
}

var _ raft.FSM = recoveringFSM{}

// Snapshot implements raft.FSM.
func (f recoveringFSM) Snapshot() (raft.FSMSnapshot, error) {
	if f.halted {
		return nil, ErrHalted
	}
	if err := f.begin(); err != nil {
		return nil, err
	}
	return f.fsm.Snapshot()
}
