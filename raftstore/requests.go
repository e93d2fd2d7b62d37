package raftstore

// maxRequests is how many outcomes are remembered. It is part of the entry
// format: replicas that remember different numbers would diverge.
const maxRequests = 32768

// maxReason bounds the text of a remembered refusal, in bytes.
const maxReason = 512

// outcomeKind says how a txn was judged.
type outcomeKind uint8

const (
	outcomeApplied   outcomeKind = iota + 1 // applied; ops is their number, revision that of the last one
	outcomeConflict                         // the condition with index ops failed
	outcomeRefused                          // the constraint with index ops refused it, for reason
	outcomeTooOld                           // it may have been judged already, and its outcome forgotten
	outcomeReused                           // its RequestID belongs to another txn
	outcomeUnsettled                        // it may or may not reach the state machine, see propose
)

// remembered is the outcome of a request in a compact form, so that many can be
// kept.
type remembered struct {
	id       string
	sum      uint32 // checksum of the txn; tells a retry from a reused ID
	kind     outcomeKind
	ops      uint32 // number of ops, or index of the condition or constraint that refused
	revision uint64
	reason   string
}

// requestTable remembers the last maxRequests outcomes by request ID. It is part
// of the replicated state: only applied entries change it.
//
// Every judged txn takes a sequence number (seq). A txn carries the seq that its
// proposer's replica had reached before the first attempt (since). If everything
// judged after since is still in the table, a missing request ID proves that the
// txn was never judged. Otherwise the txn is refused as too old. This makes a
// table of bounded size safe.
type requestTable struct {
	seq   uint64 // requests judged so far
	slots []remembered
	index map[string]uint32 // id to slot
}

func newRequestTable() *requestTable {
	return &requestTable{index: make(map[string]uint32)}
}

// floor returns the seq up to which the table has forgotten requests.
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

// restoreRequests rebuilds a table from the number of requests judged so far and
// the remembered outcomes, oldest first.
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
