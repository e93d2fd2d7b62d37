package raftstore

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"
)

// raft.VerifyLeader counts every replica that answers a heartbeat. It also counts
// replicas that do not vote, and answers to heartbeats sent before the call.
// Neither proves that no other leader has been elected in the meantime. So the
// leader asks the voters itself.

// confirmPause is the time after which a voter is asked again if it could not be
// reached, or if it answered with an older term.
const confirmPause = 25 * time.Millisecond

// confirmation asks the voters whether this replica still leads in a term.
type confirmation struct {
	s       *Store
	term    uint64
	voters  []confirmVoter // the voters other than this replica
	need    int            // how many of them must still agree
	answers chan confirmAnswer
}

// confirmVoter is a voter and the request to it.
type confirmVoter struct {
	raft.Server
	conn     *peerConn // carries the request; nil if the voter must be asked (again)
	request  uint64
	answered bool
	agreed   bool
}

type confirmAnswer struct {
	voter int
	frame frame
}

// confirm returns nil once it is certain that, at the time of the call, no leader
// had been elected in a later term than the one this replica leads. A voter stores
// a term on disk before it votes in that term. So if a majority of the voters is
// still in this leader's term, no later term can have had a majority.
func (s *Store) confirm(ctx context.Context, term uint64) error {
	c, err := s.newConfirmation(term)
	if err != nil {
		return err
	}
	if c.need > 0 {
		err = c.awaitMajority(ctx)
		c.forgetRequests()
	}
	if err == nil && !s.leads(term) { // this replica's own answer as a voter
		err = errors.New("the term changed")
	}
	return err
}

// newConfirmation counts the voters of the latest configuration. Any other leader
// was elected by the voters of this configuration or of the one before it, and the
// majorities of these two overlap.
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

// awaitMajority asks the voters until enough of them have agreed.
func (c *confirmation) awaitMajority(ctx context.Context) error {
	again := time.NewTimer(confirmPause)
	defer again.Stop()
	for {
		changed, dialed := c.s.leaderChange.wait(), c.s.peers.dialed.wait()
		if !c.s.leads(c.term) {
			return errors.New("leadership is lost")
		}
		c.askVoters()
		select {
		case a := <-c.answers:
			if err := c.countAnswer(a); err != nil || c.need == 0 {
				return err
			}
		case <-dialed:
		case <-changed:
		case <-again.C:
			c.markForRetry()
			again.Reset(confirmPause)
		case <-ctx.Done():
			return fmt.Errorf("no majority of the voters answered: %w", context.Cause(ctx))
		}
	}
}

// askVoters sends the request to the voters that have not been sent it yet.
func (c *confirmation) askVoters() {
	for i := range c.voters {
		v := &c.voters[i]
		if v.conn != nil {
			continue
		}
		v.conn, v.request = c.s.peers.askPeer(string(v.Address), opTerm, []byte(v.ID), func(f frame) {
			select {
			case c.answers <- confirmAnswer{i, f}:
			default: // the voter was asked repeatedly; one answer is enough
			}
		})
	}
}

// countAnswer counts the answer of a voter. It returns an error if the voter is in
// a later term.
func (c *confirmation) countAnswer(a confirmAnswer) error {
	v := &c.voters[a.voter]
	v.answered = true
	if v.conn == nil || !v.conn.isOf(nodeOf(v.ID)) {
		return nil // another host has made no promises for the voter
	}
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

// markForRetry marks the voters that must be asked again: those that answered but
// did not agree, and those whose connection is closed.
func (c *confirmation) markForRetry() {
	for i := range c.voters {
		v := &c.voters[i]
		if !v.agreed && v.conn != nil && (v.answered || !v.conn.alive()) {
			v.conn, v.answered = nil, false
		}
	}
}

// forgetRequests drops the requests that are still unanswered.
func (c *confirmation) forgetRequests() {
	for i := range c.voters {
		if v := &c.voters[i]; v.conn != nil && !v.answered {
			v.conn.forgetRequest(v.request)
		}
	}
}

// serveTerm answers a leader with this replica's term, if the request names this
// replica. A host that was reinstalled at the address of a voter is another
// replica and has not made the voter's promises.
func (s *Store) serveTerm(id []byte) ([]byte, error) {
	if err := s.Err(); err != nil {
		return nil, err
	}
	if string(id) != string(s.id) {
		return nil, fmt.Errorf("%w: this is replica %s, not %s", errNotLeader, s.id, id)
	}
	return binary.LittleEndian.AppendUint64(nil, s.raft.CurrentTerm()), nil
}
