package raftstore

import (
	"errors"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
)

// aheadTrial is a leader's log and one follower.
type aheadTrial struct {
	*ahead
	mu    sync.Mutex
	sent  []raft.AppendEntriesRequest
	delay time.Duration
	err   error
}

func newAheadTrial() *aheadTrial {
	trial := &aheadTrial{}
	trial.ahead = newAhead(&tasks{}, func(_ raft.ServerID, _ raft.ServerAddress, req *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
		trial.mu.Lock()
		trial.sent = append(trial.sent, *req)
		trial.mu.Unlock()
		time.Sleep(trial.delay)
		*resp = raft.AppendEntriesResponse{Term: req.Term, Success: true, LastLog: req.PrevLogEntry + uint64(len(req.Entries))}
		return trial.err
	})
	return trial
}

// replicate does what Raft does for an entry: it stores it, and then sends it.
func (a *aheadTrial) replicate(t *testing.T, index, term uint64, store time.Duration) error {
	t.Helper()
	entries := []*raft.Log{{Index: index, Term: term}}
	a.sendNew(&raft.Log{Index: index - 1, Term: term}, entries, index-1)
	time.Sleep(store)
	req := raft.AppendEntriesRequest{Term: term, PrevLogEntry: index - 1, PrevLogTerm: term, Entries: entries}
	var resp raft.AppendEntriesResponse
	err := a.appendEntries("host2/1", "host2:7000", &req, &resp)
	if err == nil && (!resp.Success || resp.LastLog != index) {
		t.Errorf("entry %d is answered with %+v", index, resp)
	}
	return err
}

func TestWhatIsSentAhead(t *testing.T) {
	for name, c := range map[string]struct {
		do   func(t *testing.T, a *aheadTrial)
		sent int // requests, after the first entry
	}{
		"each entry is sent once": {func(t *testing.T, a *aheadTrial) {
			for i := range uint64(5) {
				_ = a.replicate(t, 11+i, 3, 10*time.Millisecond)
			}
		}, 5},
		"an answer that is too old is no sign of life": {func(t *testing.T, a *aheadTrial) {
			_ = a.replicate(t, 11, 3, aheadLimit+time.Millisecond)
		}, 2},
		"an error ends it until Raft has reached the follower": {func(t *testing.T, a *aheadTrial) {
			a.err = errors.New("broken")
			if err := a.replicate(t, 11, 3, 0); err == nil {
				t.Error("no error")
			}
			a.err = nil
			_ = a.replicate(t, 11, 3, 0)
			_ = a.replicate(t, 12, 3, 0)
		}, 3},
		"a slow follower gets each entry once": {func(t *testing.T, a *aheadTrial) {
			a.delay = 2 * aheadLimit
			for i := range uint64(3) {
				_ = a.replicate(t, 11+i, 3, 10*time.Millisecond)
			}
		}, 3},
		"a silent follower holds Raft up for one request": {func(t *testing.T, a *aheadTrial) {
			a.delay, a.err = 10*time.Second, errors.New("timeout")
			begin := time.Now()
			if err := a.replicate(t, 11, 3, 0); err == nil || time.Since(begin) > a.delay {
				t.Errorf("Raft gets %v after %s", err, time.Since(begin))
			}
		}, 1},
		"a host that was removed gets nothing behind that": {func(t *testing.T, a *aheadTrial) {
			left := raft.Configuration{Servers: []raft.Server{{ID: "host1/1", Address: "host1:7000"}}}
			removal := []*raft.Log{{Index: 11, Term: 3, Type: raft.LogConfiguration, Data: raft.EncodeConfiguration(left)}}
			a.sendNew(&raft.Log{Index: 10, Term: 3}, removal, 10)
			// Raft sends it up to there.
			if err := a.appendEntries("host2/1", "host2:7000", &raft.AppendEntriesRequest{Term: 3, PrevLogEntry: 10, PrevLogTerm: 3, Entries: removal}, new(raft.AppendEntriesResponse)); err != nil {
				t.Error(err)
			}
			a.sendNew(removal[0], []*raft.Log{{Index: 12, Term: 3}}, 10)
		}, 1},
		"a follower that lacks earlier entries gets nothing ahead": {func(t *testing.T, a *aheadTrial) {
			_ = a.replicate(t, 15, 3, 0)
		}, 1},
		"entries of another leader are not sent": {func(_ *testing.T, a *aheadTrial) {
			a.sendNew(&raft.Log{Index: 10, Term: 3}, []*raft.Log{{Index: 11, Term: 4}}, 10)
		}, 0},
		"Raft's other requests are sent as they are": {func(t *testing.T, a *aheadTrial) {
			a.sendNew(&raft.Log{Index: 10, Term: 3}, []*raft.Log{{Index: 11, Term: 3}}, 10)
			for _, req := range []raft.AppendEntriesRequest{{Term: 3}, {Term: 3, PrevLogEntry: 10, PrevLogTerm: 3}} {
				var resp raft.AppendEntriesResponse
				if err := a.appendEntries("host2/1", "host2:7000", &req, &resp); err != nil {
					t.Error(err)
				}
			}
		}, 3},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := newAheadTrial()
				if err := a.replicate(t, 10, 3, 0); err != nil {
					t.Fatal(err)
				}
				a.sent = nil
				c.do(t, a)
				synctest.Wait()
				if got := len(a.sent); got != c.sent {
					t.Errorf("%d requests, want %d: %+v", got, c.sent, a.sent)
				}
				for _, req := range a.sent {
					if req.LeaderCommitIndex > req.PrevLogEntry+uint64(len(req.Entries)) {
						t.Errorf("commits what it does not send: %+v", req)
					}
				}
				a.tasks.stop()
			})
		})
	}
}

// fullLog is a log that can be full.
type fullLog struct {
	*raft.InmemStore
	full bool
}

// StoreLogs implements raft.LogStore.
func (l *fullLog) StoreLogs(logs []*raft.Log) error {
	if l.full {
		return syscall.ENOSPC
	}
	return l.InmemStore.StoreLogs(logs)
}

// A leader that cannot write an entry leads no more. It may get that entry from the next
// leader, and then sends it to nobody.
func TestWhoCannotWriteSendsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAheadTrial()
		limits := DefaultConfig().Limits
		under := &fullLog{InmemStore: raft.NewInmemStore()}
		log := newLogStore(under, func() uint64 { return 0 }, &limits, newMetrics(nil))
		log.ahead = a.ahead
		if err := log.StoreLog(&raft.Log{Index: 10, Term: 3}); err != nil {
			t.Fatal(err)
		}
		if err := a.replicate(t, 10, 3, 0); err != nil {
			t.Fatal(err)
		}
		under.full, a.sent = true, nil
		next := &raft.Log{Index: 11, Term: 3}
		if err := log.StoreLog(next); !errors.Is(err, ErrDiskFull) {
			t.Fatal(err)
		}
		synctest.Wait()
		under.full = false
		if err := log.StoreLog(next); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if len(a.sent) != 1 {
			t.Errorf("it was sent %d times", len(a.sent))
		}
		a.tasks.stop()
	})
}
