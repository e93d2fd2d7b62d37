package raftstore

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"
)

// A replica that is in the Raft configuration gets the log from the leader. A follower gets
// it from another replica, its feeder, which may be faulty or hostile. Such a replica
// believes what it got once a majority of the voters has signed its digest at that log
// index, and a snapshot once they have signed the hash of the state at a checkpoint behind
// it. It knows the voters from before: from its own configuration if it was in Raft, or
// from the answer to its join; later ones are believed when a majority of the earlier ones
// says so. Until then it serves reads, but Confirm fails.

// keyTrust of the stable store holds the trustRecord.
var keyTrust = []byte("VirtmeshTrust")

// settledAfter is how long a feed must have brought nothing before it is recorded that all
// it brought was confirmed. It bounds how often a follower writes the record.
const settledAfter = time.Minute

// trustRecord is what a replica must remember across restarts about what it was fed.
type trustRecord struct {
	// Group is the group that the record is about. One about another group is void.
	Group incarnation `json:"group"`
	// Feeding says that the log behind FedTo may have come through a feed, up to its end.
	// Otherwise the log up to FedTo did, and was confirmed with the digest Digest.
	Feeding bool   `json:"feeding"`
	FedTo   uint64 `json:"fedTo"`
	Digest  []byte `json:"digest,omitempty"`
	// Unverified is the log index of a snapshot that came through a feed and was not
	// confirmed, zero if there is none.
	Unverified uint64 `json:"unverified"`
	// Doubted is the log index of a configuration in which this replica votes, which came
	// through a feed, and which the voters have not signed; zero if there is none.
	Doubted uint64 `json:"doubted,omitempty"`
	// Voters are who is believed, sorted, and VotersAt the log index at which they voted.
	// They are empty in a replica that was never fed.
	Voters   []string `json:"voters,omitempty"`
	VotersAt uint64   `json:"votersAt,omitempty"`
}

// trust is what a replica believes of what it was fed.
type trust struct {
	save func(trustRecord) error

	mu        sync.Mutex
	record    trustRecord
	fed       uint64    // the log up to here may have come through a feed
	fedAt     time.Time // when the feed last brought something
	feeder    string    // the node that brought it
	confirmed uint64    // what was fed up to here is the voters'
	newest    agreement // what the voters have signed last
	problem   error     // why the last attempt to confirm failed

	changed  broadcast     // notified when one of the above has changed
	wanted   chan struct{} // holds a token while a caller of Confirm waits
	received *latest[[]byte]
}

func newTrust(save func(trustRecord) error) *trust {
	return &trust{save: save, wanted: make(chan struct{}, 1), received: newLatest[[]byte]()}
}

// load takes the record of earlier runs. last is the end of the local state.
func (t *trust) load(data []byte, group incarnation, last uint64) error {
	if len(data) == 0 {
		return nil
	}
	var r trustRecord
	if err := json.Unmarshal(data, &r); err != nil {
		return fmt.Errorf("%w: read %s: %w", ErrCorruptLog, keyTrust, err)
	}
	if r.Group != group {
		return nil // a recovery has made this state the group's
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.record = r
	if t.fed, t.confirmed = r.FedTo, r.FedTo; r.Feeding {
		t.fed, t.confirmed = last, 0
	}
	return nil
}

// checkReplayed compares what was confirmed in an earlier run with what the log on the disk
// has led to. If they differ, the voters are asked; also if the log was not replayed as far,
// as after a kill: a feeder may replace what comes next.
func (t *trust) checkReplayed(digests *digestLog) {
	t.mu.Lock()
	defer t.mu.Unlock()
	own, ok := digests.at(t.record.FedTo)
	if ok && t.record.FedTo > 0 && !bytes.Equal(own[:], t.record.Digest) || t.record.FedTo > digests.applied() {
		t.confirmed = 0
	}
}

// change changes the record, on disk first. The caller holds t.mu.
func (t *trust) change(f func(*trustRecord)) error {
	next := t.record
	f(&next)
	if err := t.save(next); err != nil {
		return fmt.Errorf("store what this replica believes: %w", err)
	}
	t.record = next
	return nil
}

// noteFed must be called before entries up to index that came through a feed are handed to
// the local Raft.
func (s *Store) noteFed(index uint64, feeder string) error {
	known := s.voterLog.newest()
	t := s.trust
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.record.Feeding {
		err := t.change(func(r *trustRecord) {
			r.Group, r.Feeding = s.group.current(), true
			if len(r.Voters) == 0 {
				r.Voters, r.VotersAt = known.voters, known.index
			}
		})
		if err != nil {
			return err
		}
	}
	t.fed, t.fedAt, t.feeder = max(t.fed, index), time.Now(), feeder
	return nil
}

// noteFedSnapshot must be called before a snapshot that came through a feed is handed to
// the local Raft. Its log index is index.
func (s *Store) noteFedSnapshot(index uint64, feeder string) error {
	if err := s.noteFed(index, feeder); err != nil {
		return err
	}
	t := s.trust
	t.mu.Lock()
	defer t.mu.Unlock()
	t.confirmed = min(t.confirmed, index-1)
	return t.change(func(r *trustRecord) { r.Unverified = index })
}

// introduceVoters tells a replica that was never in the Raft configuration who votes. The
// leader says it when the replica joins. It has no effect once the replica knows voters.
func (s *Store) introduceVoters(voters []string) error {
	if len(s.voterLog.newest().voters) > 0 {
		return nil // it was in the configuration, and knows better
	}
	voters = slices.Compact(slices.Sorted(slices.Values(voters)))
	t := s.trust
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.record.Voters) > 0 || len(voters) == 0 || len(voters) > maxStatedVoters {
		return nil
	}
	return t.change(func(r *trustRecord) { r.Group, r.Voters = s.group.current(), voters })
}

// configured takes the voters of a configuration that was applied, if it did not come
// through a feed. It reports whether they are others than those that are believed.
func (t *trust) configured(set voterSet, self string) (others bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.reviewDoubt(set, self)
	if len(t.record.Voters) == 0 || slices.Equal(set.voters, t.record.Voters) {
		return false
	}
	if set.index <= max(t.fed, t.record.VotersAt) {
		return set.index > t.record.VotersAt
	}
	if err := t.change(func(r *trustRecord) { r.Voters, r.VotersAt = set.voters, set.index }); err != nil {
		t.problem = err
	}
	return false
}

// believedVoters returns the node IDs of the voters whose majority this replica believes.
func (s *Store) believedVoters() []string {
	s.trust.mu.Lock()
	voters := s.trust.record.Voters
	s.trust.mu.Unlock()
	if len(voters) > 0 {
		return voters
	}
	return s.voterLog.newest().voters
}

// votersAt returns who votes at a log index: as the log says, or, of a log that was fed, as
// the voters have signed.
func (s *Store) votersAt(index uint64) []string {
	t := s.trust
	t.mu.Lock()
	defer t.mu.Unlock()
	if index <= t.fed || t.record.Doubted > 0 {
		return t.record.Voters
	}
	return s.voterLog.at(index)
}

// confirms reports whether the state up to a log index is certainly the voters'.
func (t *trust) confirms(index uint64) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.record.Doubted == 0 {
		index = min(index, t.fed)
	} // else the entries behind may come from a leader that the feeder has made up
	return t.confirmed >= index && t.record.Unverified == 0
}

// unverified returns the log index of the fed snapshot that is not confirmed yet.
func (t *trust) unverified() uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.record.Unverified
}

// keepAgreement keeps an agreement, to be passed on, if it says more than the last one.
func (t *trust) keepAgreement(v agreement) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if v.newer(&t.newest) {
		t.newest = v
	}
}

// newestStatements returns the newest statements of a majority of the voters, to be passed
// on, and the rank of what they say. It returns nil if they rank no higher than known.
func (s *Store) newestStatements(known statementsRank) ([]byte, statementsRank) {
	s.trust.mu.Lock()
	defer s.trust.mu.Unlock()
	v := &s.trust.newest
	rank := statementsRank{v.index, v.checkpoint.index}
	if len(v.bundle) == 0 || !v.newer(&agreement{index: known.Index, checkpoint: hashedCheckpoint{index: known.Checkpoint}}) {
		return nil, rank
	}
	return encodeBundle(v.bundle), rank
}

// statementsKnown ranks the newest statements that this replica has.
func (s *Store) statementsKnown() statementsRank {
	_, rank := s.newestStatements(statementsRank{Index: math.MaxUint64})
	return rank
}

// statementsRank says how much a bundle of statements says: later ones rank higher.
type statementsRank struct {
	Index      uint64 `json:"index"`
	Checkpoint uint64 `json:"checkpoint,omitempty"`
}

// putStatements takes a bundle of statements from another replica. It is verified later, so
// putStatements does not block.
func (s *Store) putStatements(bundle []byte) { s.trust.received.put(bundle) }

// agree notes that this replica's digest at the index of v is that of the voters.
func (t *trust) agree(v agreement) {
	t.mu.Lock()
	defer t.mu.Unlock()
	defer t.changed.notify()
	t.confirmed = max(t.confirmed, v.index)
	t.problem = nil
	settled := t.record.Feeding && v.index >= t.fed && time.Since(t.fedAt) >= settledAfter
	replaced := len(t.record.Voters) > 0 && v.index > t.record.VotersAt && !slices.Equal(v.voters, t.record.Voters)
	if !settled && !replaced {
		return
	}
	err := t.change(func(r *trustRecord) {
		if settled {
			r.Feeding, r.FedTo, r.Digest = false, v.index, v.digest[:]
		}
		if replaced {
			r.Voters, r.VotersAt = v.voters, v.index
		}
	})
	if err != nil {
		t.problem = err
	}
}

// verify notes that the state is the voters', after a snapshot that was fed.
func (t *trust) verify(checkpoint uint64) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	defer t.changed.notify()
	if t.record.Unverified == 0 || checkpoint <= t.record.Unverified {
		return nil
	}
	return t.change(func(r *trustRecord) { r.Unverified = 0 })
}

// fail notes why an attempt to confirm has failed.
func (t *trust) fail(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.problem = err
	t.changed.notify()
}

// whyNot says why the state is not confirmed.
func (t *trust) whyNot() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.problem != nil {
		return t.problem
	}
	return errors.New("the voters have not answered yet")
}

// from names who fed this replica, for messages.
func (t *trust) from() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.feeder == "" {
		return ""
	}
	return "; it was fed by " + t.feeder
}
