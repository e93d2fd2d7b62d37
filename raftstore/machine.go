package raftstore

import (
	"errors"
	"fmt"
	"hash/crc32"
	"runtime/debug"
	"sort"
	"strings"

	"github.com/tidwall/btree"
)

// treeDegree balances the bytes copied per write against the depth of the tree.
const treeDegree = 32

// firstRevision is the revision of an empty store. It is not zero, because a watch
// that continues a list of an empty store must name a revision, and zero means
// "from now on".
const firstRevision = 1

type tree = btree.BTreeG[*stored]

// stored is a record as the tree and the history keep it. It is not changed once it is
// published.
type stored struct {
	key                         string
	value                       packed
	createRevision, modRevision uint64
}

// record returns the record with its value.
func (s *stored) record() Record {
	return Record{
		Key: s.key, Value: s.value.value(), CreateRevision: s.createRevision, ModRevision: s.modRevision, kept: s.value,
	}
}

// compact returns the record, with its value only if that is not packed.
func (s *stored) compact() Record {
	r := Record{Key: s.key, CreateRevision: s.createRevision, ModRevision: s.modRevision, kept: s.value}
	if s.value.model == nil {
		r.Value = s.value.bytes
	}
	return r
}

// recordOf returns the record of s, nil if s is nil.
func recordOf(s *stored) *Record {
	if s == nil {
		return nil
	}
	r := s.record()
	return &r
}

func lessRecord(a, b *stored) bool { return a.key < b.key }

// newTree returns an empty tree. It has no lock: one goroutine changes it, and all others
// read copies.
func newTree() *tree {
	return btree.NewBTreeGOptions(lessRecord, btree.Options{Degree: treeDegree, NoLocks: true})
}

// ascendPrefix calls fn for the records below prefix whose key is at least from.
func ascendPrefix(t *tree, prefix, from string, fn func(*stored) bool) {
	pivot := &stored{key: max(prefix, from)}
	t.Ascend(pivot, func(r *stored) bool {
		return strings.HasPrefix(r.key, prefix) && fn(r)
	})
}

// countPrefix returns how many records below prefix have a key of at least from. It costs
// two searches, however many they are.
func countPrefix(t *tree, prefix, from string) int {
	from = max(prefix, from)
	// position returns the place of the first record that is not in front of something.
	position := func(inFront func(key string) bool) int {
		return sort.Search(t.Len(), func(i int) bool {
			r, _ := t.GetAt(i)
			return !inFront(r.key)
		})
	}
	first := position(func(key string) bool { return key < from })
	end := position(func(key string) bool { return key < from || strings.HasPrefix(key, prefix) })
	return end - first
}

// constraintSet holds the constraints that a replica knows.
type constraintSet map[constraintKey]*Constraint

type constraintKey struct {
	name    string
	version uint32
}

func newConstraintSet(list []Constraint) (constraintSet, error) {
	set := make(constraintSet, len(list))
	var errs []error
	for i := range list {
		c := &list[i]
		key := constraintKey{c.Name, c.Version}
		switch {
		case c.Name == "" || c.Check == nil:
			errs = append(errs, fmt.Errorf("constraint %d has no name or no check", i))
		case set[key] != nil:
			errs = append(errs, fmt.Errorf("constraint %d: %s/v%d is registered twice", i, c.Name, c.Version))
		}
		set[key] = c
	}
	return set, errors.Join(errs...)
}

// change is one key changed by an applied txn.
type change struct {
	typ    EventType
	record *stored // for a Delete, a tombstone: key and revision
	prev   *stored
	txnEnd uint64 // last revision of the txn
}

// outcome is the verdict on a txn, as its proposer gets it.
type outcome struct {
	kind       outcomeKind
	index      uint64 // log index of the entry; the proposer waits until its own replica applied it
	seq        uint64 // requests judged so far
	revision   uint64
	ops        uint32
	conflict   *ConflictError
	constraint *ConstraintError
	err        error // for outcomeUnsettled
}

// machine is the replicated state machine. Its state is a pure function of the
// entries applied to it: no clock, no randomness, no I/O. Only one goroutine may
// use it at a time; what it publishes is immutable.
type machine struct {
	tree        *tree
	bytes       int64 // of keys and values
	revision    uint64
	requests    *requestTable
	digest      digest // of everything that was applied
	constraints constraintSet
	packer      *packer
	levels      LevelRange      // that this version knows
	asked       *ConstraintCall // the constraint that is judging, nil if none is
}

func newMachine(constraints constraintSet, levels LevelRange) *machine {
	return &machine{
		levels:      levels,
		tree:        newTree(),
		revision:    firstRevision,
		requests:    newRequestTable(),
		constraints: constraints,
		packer:      newPacker(),
	}
}

// apply judges the txns of one entry in order; a checkpoint has none. An error means that
// this replica cannot judge the entry and must halt. Nothing has changed in that case,
// because the whole entry is checked first; except after a panic, which may leave a part
// of the entry behind, so that the machine must not be used any more.
func (m *machine) apply(entry []byte) (outcomes []outcome, changes []change, err error) {
	defer func() {
		if cause := recover(); cause != nil {
			outcomes, changes, err = nil, nil, &panicError{cause: cause, asked: m.asked, stack: debug.Stack()}
		}
	}()
	envelopes, err := decodeEntry(entry)
	if err != nil {
		return nil, nil, err
	}
	type judged struct {
		txn   *Txn
		since uint64
		sum   uint32
	}
	txns := make([]judged, len(envelopes))
	for i, e := range envelopes {
		t, since, err := decodeTxn(e)
		if err != nil {
			return nil, nil, fmt.Errorf("%w: %w", ErrCorruptLog, err)
		}
		for _, c := range t.Constraints {
			if m.constraints[constraintKey{c.Name, c.Version}] == nil {
				return nil, nil, fmt.Errorf("%w: an entry calls %s/v%d; run a version that knows it", ErrUnknownConstraint, c.Name, c.Version)
			}
		}
		if raised, ok := t.raises(); ok && raised.level > m.levels.Highest {
			return nil, nil, raised.checkKnown(m.levels)
		}
		txns[i] = judged{t, since, crc32.Checksum(e[envelopeHeader:], castagnoli)}
	}
	outcomes = make([]outcome, len(txns))
	next := m.digest.extend(entry)
	for i, j := range txns {
		outcomes[i], changes = m.judgeTxn(j.txn, j.since, j.sum, changes)
		outcomes[i].seq = m.requests.seq
		next.addVerdict(&outcomes[i])
	}
	for i := range changes {
		next.addChange(&changes[i])
		changes[i].record.value = m.packer.pack(changes[i].record.key, changes[i].record.value.bytes)
	}
	m.digest = next.sum()
	return outcomes, changes, nil
}

// judgeTxn applies one txn, or returns the outcome that says why it was refused.
func (m *machine) judgeTxn(t *Txn, since uint64, sum uint32, changes []change) (outcome, []change) {
	if r, ok := m.requests.lookup(t.RequestID); ok {
		if r.sum != sum {
			return outcome{kind: outcomeReused, revision: m.revision}, changes
		}
		return m.recallOutcome(t, r), changes
	}
	if since < m.requests.floor() {
		return outcome{kind: outcomeTooOld, revision: m.revision}, changes
	}
	out, changes := m.executeTxn(t, changes)
	r := remembered{id: t.RequestID, sum: sum, kind: out.kind, ops: out.ops, revision: out.revision}
	if out.constraint != nil {
		r.reason = out.constraint.Reason
	}
	m.requests.add(r)
	return out, changes
}

// recallOutcome rebuilds the outcome of a request that was judged before.
func (m *machine) recallOutcome(t *Txn, r remembered) outcome {
	out := outcome{kind: r.kind, ops: r.ops, revision: r.revision}
	switch r.kind {
	case outcomeConflict:
		c := t.If[r.ops]
		out.conflict = &ConflictError{Key: c.Key, Want: c.ModRevision, Current: recordOf(m.get(c.Key))}
	case outcomeRefused:
		out.constraint = t.refusedBy(int(r.ops), r.reason)
	}
	return out
}

// refusedBy returns the error of the constraint at a position of the txn, or, behind the
// last one, of the machine's own rule on the feature level.
func (t *Txn) refusedBy(position int, reason string) *ConstraintError {
	if position >= len(t.Constraints) {
		return &ConstraintError{Name: levelConstraint, Version: 1, Reason: reason}
	}
	c := t.Constraints[position]
	return &ConstraintError{Name: c.Name, Version: c.Version, Reason: reason}
}

func (m *machine) get(key string) *stored {
	r, _ := m.tree.Get(&stored{key: key})
	return r
}

// executeTxn judges a txn that has not been judged before.
func (m *machine) executeTxn(t *Txn, changes []change) (outcome, []change) {
	for i, c := range t.If {
		cur := m.get(c.Key)
		if (cur == nil && c.ModRevision != 0) || (cur != nil && cur.modRevision != c.ModRevision) {
			return outcome{
				kind: outcomeConflict, ops: uint32(i), revision: m.revision,
				conflict: &ConflictError{Key: c.Key, Want: c.ModRevision, Current: recordOf(cur)},
			}, changes
		}
	}
	first, before := len(changes), m.revision
	check := m.raiseCheck(t)
	changes = m.writeOps(t, changes)
	if position, err := m.askConstraints(t, check); err != nil {
		m.undoChanges(changes[first:])
		m.revision = before
		reason := err.Error()
		if len(reason) > maxReason {
			reason = strings.ToValidUTF8(reason[:maxReason], "")
		}
		return outcome{
			kind: outcomeRefused, ops: uint32(position), revision: m.revision,
			constraint: t.refusedBy(position, reason),
		}, changes[:first]
	}
	return outcome{kind: outcomeApplied, ops: uint32(len(t.Ops)), revision: m.revision}, changes
}

// askConstraints returns why t is refused, and the position of the constraint that does
// so. The machine's own rule, raiseCheck, comes last.
func (m *machine) askConstraints(t *Txn, raiseCheck func() error) (int, error) {
	for i := range t.Constraints {
		if err := m.askConstraint(t, &t.Constraints[i]); err != nil {
			return i, err
		}
	}
	return len(t.Constraints), raiseCheck()
}

// askConstraint returns why a constraint refuses t, nil if it does not.
func (m *machine) askConstraint(t *Txn, c *ConstraintCall) error {
	m.asked = c
	err := m.constraints[constraintKey{c.Name, c.Version}].Check(view{m.tree}, t, c.Args)
	m.asked = nil
	return err
}

// writeOps carries out the ops and appends their changes to changes.
func (m *machine) writeOps(t *Txn, changes []change) []change {
	end := m.revision + uint64(len(t.Ops))
	for i := range t.Ops {
		op := &t.Ops[i]
		m.revision++
		next := &stored{key: op.Key, value: packed{bytes: op.Value}, createRevision: m.revision, modRevision: m.revision}
		if op.Delete {
			prev, ok := m.tree.Delete(next)
			if !ok {
				continue
			}
			m.bytes -= recordBytes(prev)
			next.createRevision = prev.createRevision
			changes = append(changes, change{Delete, next, prev, end})
			continue
		}
		prev, ok := m.tree.Set(next)
		if ok {
			// next is in the tree, but no reader can see it yet.
			next.createRevision = prev.createRevision
			m.bytes -= recordBytes(prev)
		}
		m.bytes += recordBytes(next)
		changes = append(changes, change{Put, next, prev, end})
	}
	return changes
}

// undoChanges undoes the changes of a refused txn, last first.
func (m *machine) undoChanges(changes []change) {
	for i := len(changes) - 1; i >= 0; i-- {
		c := changes[i]
		if c.typ == Put {
			m.bytes -= recordBytes(c.record)
		}
		if c.prev == nil {
			m.tree.Delete(c.record)
			continue
		}
		m.bytes += recordBytes(c.prev)
		m.tree.Set(c.prev)
	}
}

func recordBytes(r *stored) int64 { return int64(len(r.key) + r.value.size()) }

// view is the state after the ops, as a constraint sees it.
type view struct{ t *tree }

var _ View = view{}

// Get implements View.
func (v view) Get(key string) (Record, bool) {
	r, ok := v.t.Get(&stored{key: key})
	if !ok {
		return Record{}, false
	}
	return r.record(), true
}

// Ascend implements View.
func (v view) Ascend(prefix string, fn func(Record) bool) {
	ascendPrefix(v.t, prefix, "", func(r *stored) bool { return fn(r.record()) })
}
