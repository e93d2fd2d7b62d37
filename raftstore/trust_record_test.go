package raftstore

import (
	"encoding/json"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
)

// fedStore is a store with only the parts that remember what it was fed. writes counts how
// often that was written.
func fedStore() (s *Store, writes *int, written func() []byte) {
	var data []byte
	n := 0
	s = &Store{group: &group{known: make(chan struct{})}, voterLog: &voterLog{}}
	s.group.setOwn(incarnation{1})
	s.trust = newTrust(func(r trustRecord) (err error) {
		n++
		data, err = json.Marshal(r)
		return err
	})
	return s, &n, func() []byte { return data }
}

// again returns the trust that the next run of a replica begins with, whose log ends at last.
func again(t *testing.T, data []byte, last uint64) *trust {
	t.Helper()
	next := newTrust(func(trustRecord) error { return nil })
	if err := next.load(data, incarnation{1}, last); err != nil {
		t.Fatal(err)
	}
	return next
}

// A follower in a busy mesh writes its record once. A minute after the last entry was
// confirmed, a restart needs no voter; while more may have come, it does.
func TestWhatARestartBelieves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, writes, written := fedStore()
		s.voterLog.add(voterSet{1, []string{"a", "b", "c"}})
		agree := func(index uint64) {
			s.trust.agree(agreement{index: index, digest: digest{byte(index)}, voters: []string{"a", "b", "c"}})
		}
		for i := uint64(10); i < 1000; i++ {
			if err := s.noteFed(i, "d"); err != nil {
				t.Fatal(err)
			}
			if i%5 == 0 {
				agree(i)
			}
			time.Sleep(time.Second)
		}
		if *writes != 1 {
			t.Errorf("the record was written %d times", *writes)
		}
		if again(t, written(), 999).confirms(20) {
			t.Error("after a restart amid the feed the state is believed")
		}
		agree(999)
		time.Sleep(2 * time.Minute)
		agree(999)
		if next := again(t, written(), 1200); !next.confirms(999) {
			t.Error("what was confirmed must be confirmed again")
		}
		tampered := again(t, written(), 999)
		l := newDigestLog()
		l.add(999, digest{1})
		if tampered.checkReplayed(l); tampered.confirms(999) {
			t.Error("a log that leads to another digest is believed after a restart")
		}
		// A replica that was killed replays less than it had. The next feeder may replace the rest.
		killed := again(t, written(), 999)
		l = newDigestLog()
		l.add(998, digest{0xe6})
		if killed.checkReplayed(l); killed.confirms(999) {
			t.Error("entries that were not replayed are believed, whoever sends them")
		}
		if err := s.noteFed(1000, "d"); err != nil {
			t.Fatal(err)
		}
		if again(t, written(), 1000).confirms(1000) {
			t.Error("what was fed after a pause is believed after a restart")
		}
	})
}

// The voters that a replica believes change with what a majority says, never back to earlier
// ones, and never by a configuration that was fed.
func TestWhoIsBelieved(t *testing.T) {
	s, _, written := fedStore()
	s.voterLog.add(voterSet{1, []string{"a", "b", "c"}})
	if err := s.introduceVoters([]string{"x"}); err != nil {
		t.Fatal(err)
	}
	if err := s.noteFed(10, "d"); err != nil {
		t.Fatal(err)
	}
	expect := func(when string, want ...string) {
		t.Helper()
		if got := s.believedVoters(); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", when, got, want)
		}
	}
	expect("at first, whatever others say", "a", "b", "c")
	s.configured(9, []raft.Server{{Suffrage: raft.Voter, ID: "d/1"}})
	expect("a configuration that was fed", "a", "b", "c")
	s.trust.agree(agreement{index: 10, voters: []string{"a", "b", "d"}})
	expect("voters that were signed", "a", "b", "d")
	s.trust.agree(agreement{index: 8, voters: []string{"a", "b", "c"}})
	expect("earlier voters", "a", "b", "d")
	s.configured(11, []raft.Server{{Suffrage: raft.Voter, ID: "b/1"}, {Suffrage: raft.Nonvoter, ID: "c/1"}, {Suffrage: raft.Voter, ID: "a/1"}})
	expect("a configuration from the leader", "a", "b")
	if got := again(t, written(), 11).record.Voters; !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("after a restart: %v", got)
	}
	other := newTrust(nil)
	if err := other.load(written(), incarnation{2}, 11); err != nil || len(other.record.Voters) != 0 || !other.confirms(11) {
		t.Errorf("after a recovery: %+v, %v", other.record, err)
	}
	if err := newTrust(nil).load([]byte("{"), incarnation{1}, 1); !errors.Is(err, ErrCorruptLog) {
		t.Errorf("a damaged record: %v", err)
	}
}
