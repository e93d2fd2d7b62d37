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

// aheadLimit is how old an answer may be. Raft takes the time at which it gets an answer
// for a sign of life.
const aheadLimit = 200 * time.Millisecond

type sendEntries func(raft.ServerID, raft.ServerAddress, *raft.AppendEntriesRequest, *raft.AppendEntriesResponse) error

// ahead sends entries to the followers that have all entries before them. It is empty on a
// replica that does not lead.
type ahead struct {
	// send is Raft's own way to send a request.
	send  sendEntries
	tasks *tasks

	mu        sync.Mutex
	followers map[raft.ServerID]*aheadFollower
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
	resp   raft.AppendEntriesResponse
	begin  time.Time
	answer chan struct{} // closed when resp and err are set
	err    error
}

func newAhead(t *tasks, send sendEntries) *ahead {
	return &ahead{send: send, tasks: t, followers: map[raft.ServerID]*aheadFollower{}}
}

// appendEntries sends a request of Raft's, or takes the answer of the call that sent the same
// entries, and notes what the follower has by then.
func (a *ahead) appendEntries(id raft.ServerID, addr raft.ServerAddress, req *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	if call := a.takeCall(id, req); call != nil && call.waitAnswer() {
		*resp = call.resp
	} else if err := a.send(id, addr, req, resp); err != nil {
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
	for id, f := range a.followers {
		if f.last.Term != entries[0].Term {
			delete(a.followers, id)
			continue
		}
		if prev == nil || f.end != prev.Index || f.call != nil && !f.call.isAnswered() {
			continue
		}
		req := f.last
		req.PrevLogEntry, req.PrevLogTerm = prev.Index, prev.Term
		req.LeaderCommitIndex, req.Entries = max(req.LeaderCommitIndex, committed), entries
		call := &aheadCall{req: &req, begin: time.Now(), answer: make(chan struct{})}
		addr := f.addr
		if a.tasks.start(func() {
			call.err = a.send(id, addr, call.req, &call.resp)
			close(call.answer)
		}) {
			f.call = call
		}
	}
}

// waitAnswer returns whether there is an answer that Raft may have.
func (c *aheadCall) waitAnswer() bool {
	<-c.answer
	return c.err == nil && time.Since(c.begin) <= aheadLimit
}

func (c *aheadCall) isAnswered() bool {
	select {
	case <-c.answer:
		return true
	default:
		return false
	}
}
