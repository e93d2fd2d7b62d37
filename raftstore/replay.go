package raftstore

import "fmt"

// Replay judges log entries one after the other, apart from any replica. It shows that a
// version judges a recorded log as the version did that recorded it.
type Replay struct{ machine *machine }

// Verdict is the verdict on one txn of an entry.
type Verdict struct {
	// Outcome is "applied", "conflict", "refused", "too old" or "reused".
	Outcome string
	// Position is the number of ops that were applied, or the position of the condition
	// or constraint that failed.
	Position int
	// Revision is the revision of the store afterwards.
	Revision uint64
	// Reason is the text of a refusal. It is not part of the replicated verdict, and may
	// differ between versions.
	Reason string
}

// NewReplay begins with an empty state.
func NewReplay(constraints []Constraint) (*Replay, error) {
	set, err := newConstraintSet(constraints)
	if err != nil {
		return nil, fmt.Errorf("replay: %w", err)
	}
	return &Replay{newMachine(set, KnownLevels())}, nil
}

// EncodeEntry returns the log entry of txns that follow on what was judged so far. Each
// needs a RequestID.
func (r *Replay) EncodeEntry(txns ...Txn) []byte {
	envelopes := make([][]byte, len(txns))
	for i := range txns {
		envelopes[i] = encodeTxn(&txns[i], r.machine.requests.seq)
	}
	return encodeEntry(r.level(), envelopes)
}

// level returns the feature level of the state.
func (r *Replay) level() uint32 {
	l, err := levelOf(r.machine.tree)
	if err != nil {
		return BaseLevel // the machine lets no such record in
	}
	return l.level
}

// Judge judges the next entry of the log. After an error the replay cannot go on.
func (r *Replay) Judge(entry []byte) ([]Verdict, error) {
	outcomes, _, err := r.machine.apply(entry)
	if err != nil {
		return nil, fmt.Errorf("replay: %w", err)
	}
	names := map[outcomeKind]string{
		outcomeApplied: "applied", outcomeConflict: "conflict", outcomeRefused: "refused",
		outcomeTooOld: "too old", outcomeReused: "reused",
	}
	verdicts := make([]Verdict, len(outcomes))
	for i, o := range outcomes {
		verdicts[i] = Verdict{Outcome: names[o.kind], Position: int(o.ops), Revision: o.revision}
		if o.constraint != nil {
			verdicts[i].Reason = o.constraint.Reason
		}
	}
	return verdicts, nil
}

// View returns the state that the entries have left.
func (r *Replay) View() View { return view{r.machine.tree} }

// Digest returns the digest of everything that was judged, as replicas compare it, after
// its version: "v2:" and hexadecimal digits.
func (r *Replay) Digest() string { return fmt.Sprintf("v%d:%x", digestVersion, r.machine.digest[:]) }
