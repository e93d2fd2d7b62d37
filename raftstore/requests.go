package raftstore

// maxRequests is how many outcomes are remembered. It is part of the entry
// format: replicas that remembered different numbers would diverge.
const maxRequests = 32768

// maxReason bounds a remembered refusal.
const maxReason = 512

// outcomeKind says how a txn was judged.
type outcomeKind uint8

const (
	outcomeApplied   outcomeKind = iota + 1 // done; revision and ops say where
	outcomeConflict                         // condition number ops refused it
	outcomeRefused                          // constraint number ops refused it, for reason
	outcomeTooOld                           // cannot be told from one already judged and forgotten
	outcomeReused                           // its RequestID belongs to another txn
	outcomeUnsettled                        // never reached the state machine, see propose
)

// remembered is the outcome of a request, compact enough to keep many.
type remembered struct {
	id       string
	sum      uint32 // checksum of the txn, tells a retry from a reused ID
	kind     outcomeKind
	ops      uint32 // ops done, or which condition or constraint refused
	revision uint64
	reason   string
}

// requestTable remembers the last maxRequests outcomes by request ID. It is
// replicated state: it changes only by what entries say.
//
// Every judged txn takes a seq. A txn says which seq its proposer's replica had
// reached before the first attempt (since). If everything judged after that is
// still in the table, absence from it proves that the txn was never judged. If
// not, the txn is refused as too old: this is what makes a bounded table safe.
type requestTable struct {
	seq   uint64 // requests judged so far
	slots []remembered
	index map[string]uint32 // id to slot
}

func newRequestTable() *requestTable {
	return &requestTable{index: make(map[string]uint32)}
}

// floor is the seq up to which requests have been forgotten.
func (t *requestTable) floor() uint64 {
	return t.seq - uint64(len(t.slots))
}

func (t *requestTable) lookup(id string) (remembered, bool) {
	i, ok := t.index[id]
	if !ok {
		return remembered{}, false
	}
	return t.slots[i], true
}

// add remembers an outcome and forgets the oldest if the table is full.
func (t *requestTable) add(r remembered) {
	slot := uint32(t.seq % maxRequests)
	if int(slot) < len(t.slots) {
		delete(t.index, t.slots[slot].id)
		t.slots[slot] = r
	} else {
		t.slots = append(t.slots, r)
	}
	t.index[r.id] = slot
	t.seq++
}

// oldestFirst returns a copy of the outcomes in the order they were judged.
func (t *requestTable) oldestFirst() []remembered {
	out := make([]remembered, 0, len(t.slots))
	if len(t.slots) == maxRequests {
		start := int(t.seq % maxRequests)
		out = append(out, t.slots[start:]...)
		return append(out, t.slots[:start]...)
	}
	return append(out, t.slots...)
}

// restoreRequests rebuilds a table that had judged seq requests and remembers
// the given ones.
func restoreRequests(seq uint64, outcomes []remembered) *requestTable {
	t := newRequestTable()
	t.seq = seq - uint64(len(outcomes))
	if len(outcomes) == maxRequests {
		t.slots = make([]remembered, maxRequests)
	}
	for _, r := range outcomes {
		t.add(r)
	}
	return t
}
