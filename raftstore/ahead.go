package raftstore

import (
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// Raft writes an entry to the leader's log, and sends it when that is done. So each commit
// takes two synced writes, one after the other. It needs not: the leader counts its own
// copy once it is written, whoever has the entry by then (Ongaro's dissertation, 10.2.1).
// So the entries go to the followers when Raft hands them to the log. When Raft then sends
// them, the answer is there, or under way.

// aheadLimit is for how long an answer is kept for Raft. Raft takes the time at which it gets
// an answer for a sign of life.
const aheadLimit = 200 * time.Millisecond

type sendEntries func(raft.ServerID, raft.ServerAddress, *raft.AppendEntriesRequest, *raft.AppendEntriesResponse) error

// ahead sends entries to the followers that have all entries before them. It knows none on a
// replica that stores the entries of another leader.
type ahead struct {
	// send is Raft's own way to send a request.
	send  sendEntries
	tasks *tasks

	mu        sync.Mutex
	followers map[raft.ServerID]*aheadFollower
	// group is who is in the newest configuration that was stored since the start, nil if none
	// was. Raft does not send what lies behind the removal of a replica to that.
	group map[raft.ServerID]bool
}

// aheadFollower is a follower that accepted what Raft sent.
type aheadFollower struct {
	addr raft.ServerAddress
	last raft.AppendEntriesRequest // the last one that it accepted, without its entries
	end  uint64                    // index of the last entry that it has
	call *aheadCall                // the last call, nil once Raft got its answer
}

// aheadCall is a request that was sent ahead.
type aheadCall struct {
	req    *raft.AppendEntriesRequest
	answer chan struct{} // closed when what follows is set
	resp   raft.AppendEntriesResponse
	err    error
	end    time.Time
}

func newAhead(t *tasks, send sendEntries) *ahead {
	return &ahead{send: send, tasks: t, followers: map[raft.ServerID]*aheadFollower{}}
}

// appendEntries sends a request of Raft's, or takes what came of the call that sent the same
// entries, and notes what the follower has by then. An error is Raft's too: a follower that is
// silent for the call would be silent for another request, and hold Raft up twice as long.
func (a *ahead) appendEntries(id raft.ServerID, addr raft.ServerAddress, req *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	var err error
	if call := a.takeCall(id, req); call != nil && call.waitAnswer() {
		*resp, err = call.resp, call.err
	} else {
		err = a.send(id, addr, req, resp)
	}
	if err != nil {
		a.forgetFollower(id)
		return err
	}
	a.noteAnswer(id, addr, req, resp)
	return nil
}

// takeCall returns the call that sent what req asks to be sent, nil if there is none.
// Entries of one term with the same indexes are the same.
func (a *ahead) takeCall(id raft.ServerID, req *raft.AppendEntriesRequest) *aheadCall {
	a.mu.Lock()
	defer a.mu.Unlock()
	f := a.followers[id]
	if f == nil || f.call == nil {
		return nil
	}
	call := f.call
	if sent := call.req; len(req.Entries) != len(sent.Entries) || req.Term != sent.Term || req.PrevLogEntry != sent.PrevLogEntry {
		return nil
	}
	f.call = nil
	return call
}

func (a *ahead) forgetFollower(id raft.ServerID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.followers, id)
}

func (a *ahead) forgetFollowers() {
	a.mu.Lock()
	defer a.mu.Unlock()
	clear(a.followers)
}

// noteAnswer notes the answer to a request of Raft's.
func (a *ahead) noteAnswer(id raft.ServerID, addr raft.ServerAddress, req *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) {
	end := req.PrevLogEntry + uint64(len(req.Entries))
	if end == 0 {
		return // a heartbeat
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if !resp.Success {
		delete(a.followers, id)
		return
	}
	f := a.followers[id]
	if f == nil {
		f = &aheadFollower{}
		a.followers[id] = f
	}
	f.addr, f.end, f.last = addr, end, *req
	f.last.Entries = nil
}

// sendNew sends entries that the log is about to store, which follow prev, to the
// followers that lack just these. committed is an index that is certainly committed. It
// does nothing if this replica did not lead in the term of the entries: they come from the
// leader then.
func (a *ahead) sendNew(prev *raft.Log, entries []*raft.Log, committed uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.noteGroup(entries)
	for id, f := range a.followers {
		if f.last.Term != entries[0].Term || a.group != nil && !a.group[id] {
			delete(a.followers, id)
			continue
		}
		if prev == nil || f.end != prev.Index || f.call != nil && !f.call.isAnswered() {
			continue
		}
		req := f.last
		req.PrevLogEntry, req.PrevLogTerm = prev.Index, prev.Term
		req.LeaderCommitIndex, req.Entries = max(req.LeaderCommitIndex, committed), entries
		call := &aheadCall{req: &req, answer: make(chan struct{})}
		addr := f.addr
		if a.tasks.start(func() {
			call.err = a.send(id, addr, call.req, &call.resp)
			call.end = time.Now()
			close(call.answer)
		}) {
			f.call = call
		}
	}
}

// noteGroup notes who is in the newest configuration. The caller holds a.mu.
func (a *ahead) noteGroup(entries []*raft.Log) {
	for _, l := range entries {
		if l.Type != raft.LogConfiguration {
			continue
		}
		a.group = map[raft.ServerID]bool{}
		for _, srv := range raft.DecodeConfiguration(l.Data).Servers {
			a.group[srv.ID] = true
		}
	}
}

// waitAnswer waits for the answer, and returns whether Raft may have it.
func (c *aheadCall) waitAnswer() bool {
	<-c.answer
	return time.Since(c.end) <= aheadLimit
}

func (c *aheadCall) isAnswered() bool {
	select {
	case <-c.answer:
		return true
	default:
		return false
	}
}
