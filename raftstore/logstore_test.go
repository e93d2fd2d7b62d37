package raftstore

import (
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// A log that was there when the replica started, and takes more than it may, is shortened
// and not dropped: hosts that were away catch up from it.
func TestStoredLogIsNotDroppedAsAWhole(t *testing.T) {
	under := raft.NewInmemStore()
	for i := range uint64(10_000) {
		if err := under.StoreLog(&raft.Log{Index: i + 101}); err != nil {
			t.Fatal(err)
		}
	}
	limits := DefaultConfig().Limits
	s := newLogStore(under, func() uint64 { return 0 }, &limits, newMetrics(nil))
	if err := s.noteStored(limits.TrailingBytes / 10 * 12); err != nil {
		t.Fatal(err)
	}
	// A sixth is too much, give or take a step.
	if drop := s.ages.dropTo(time.Now()); drop < 101+1500 || drop > 101+2000 {
		t.Errorf("entries 101 to 10,100 are dropped up to %d", drop)
	}
}
