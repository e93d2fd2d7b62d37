package raftstore

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"
)

// raft.VerifyLeader counts every replica that answers a heartbeat, also one that
// does not vote and also an answer to what was asked before. Neither says that no
// other leader was elected meanwhile. So the leader asks the voters itself.

// confirmPause is after how long a voter that could not be asked, or that had not
// heard of the term, is asked again.
const confirmPause = 25 * time.Millisecond

// confirmation is a leader's question to the voters whether it still leads.
type confirmation struct {
	s       *Store
	term    uint64
	voters  []confirmVoter // the others
	need    int            // of them
	answers chan confirmAnswer
}

// confirmVoter is a voter and the request to it.
type confirmVoter struct {
	raft.Server
	conn     *peerConn // nil if it is to be asked
	request  uint64
	answered bool
	agreed   bool
}

type confirmAnswer struct {
	voter int
	frame frame
}

// confirm returns nil once it is certain that when it was called nobody had been
// elected to a later term than the one this replica leads. A voter takes on a
// term, on disk, before it votes in it. So if a majority of the voters is in the
// leader's term still, no later one had a majority.
func (s *Store) confirm(ctx context.Context, term uint64) error {
	c, err := s.newConfirmation(term)
	if err != nil {
		return err
	}
	if c.need > 0 {
		err = c.run(ctx)
		c.forget()
	}
	if err == nil && !s.leads(term) { // which is this voter's own answer
		err = errors.New("the term changed")
	}
	return err
}

// newConfirmation counts the voters of the latest configuration: it or the one
// before is what any other leader was elected by, and their majorities overlap.
func (s *Store) newConfirmation(term uint64) (*confirmation, error) {
	servers, err := s.servers()
	if err != nil {
		return nil, err
	}
	c := &confirmation{s: s, term: term}
	all := 0
	for _, srv := range servers {
		if srv.Suffrage != raft.Voter {
			continue
		}
		all++
		if srv.ID != s.id {
			c.voters = append(c.voters, confirmVoter{Server: srv})
		}
	}
	if all == 0 {
		return nil, errors.New("nobody votes")
	}
	c.need = all/2 + 1 - (all - len(c.voters))
	c.answers = make(chan confirmAnswer, 2*all)
	return c, nil
}

// run asks until enough voters have agreed.
func (c *confirmation) run(ctx context.Context) error {
	again := time.NewTimer(confirmPause)
	defer again.Stop()
	for {
		changed, dialed := c.s.leaderChange.wait(), c.s.peers.dialed.wait()
		if !c.s.leads(c.term) {
			return errors.New("leadership is lost")
		}
		c.ask()
		select {
		case a := <-c.answers:
			if err := c.take(a); err != nil || c.need == 0 {
				return err
			}
		case <-dialed:
		case <-changed:
		case <-again.C:
			c.retry()
			again.Reset(confirmPause)
		case <-ctx.Done():
			return fmt.Errorf("no majority of the voters answered: %w", context.Cause(ctx))
		}
	}
}

// ask sends the question to those who have not got it.
func (c *confirmation) ask() {
	for i := range c.voters {
		v := &c.voters[i]
		if v.conn != nil {
			continue
		}
		v.conn, v.request = c.s.peers.ask(string(v.Address), opTerm, []byte(v.ID), func(f frame) {
			select {
			case c.answers <- confirmAnswer{i, f}:
			default: // asked again and again; one answer will do
			}
		})
	}
}

// take counts an answer.
func (c *confirmation) take(a confirmAnswer) error {
	v := &c.voters[a.voter]
	v.answered = true
	if status(a.frame.code) != statusOK || len(a.frame.payload) != 8 {
		return nil
	}
	switch term := binary.LittleEndian.Uint64(a.frame.payload); {
	case term > c.term:
		return fmt.Errorf("%s is in term %d already, this leader in %d", v.ID, term, c.term)
	case term == c.term && !v.agreed:
		v.agreed = true
		c.need--
	}
	return nil
}

// retry marks those who are to be asked again: they answered something else, or
// their connection is gone.
func (c *confirmation) retry() {
	for i := range c.voters {
		v := &c.voters[i]
		if !v.agreed && v.conn != nil && (v.answered || !v.conn.alive()) {
			v.conn, v.answered = nil, false
		}
	}
}

// forget drops the requests that nobody waits for any more.
func (c *confirmation) forget() {
	for i := range c.voters {
		if v := &c.voters[i]; v.conn != nil && !v.answered {
			v.conn.forget(v.request)
		}
	}
}

// serveTerm tells a leader this replica's term, if it is the one meant. A host
// installed anew at the address of a voter has not promised what that one had.
func (s *Store) serveTerm(id []byte) ([]byte, error) {
	if err := s.Err(); err != nil {
		return nil, err
	}
	if string(id) != string(s.id) {
		return nil, fmt.Errorf("%w: this is replica %s, not %s", errNotLeader, s.id, id)
	}
	return binary.LittleEndian.AppendUint64(nil, s.raft.CurrentTerm()), nil
}
