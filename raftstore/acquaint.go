package raftstore

import (
	"errors"
	"fmt"
	"net"
	"time"
)

// selfGreeting returns what a replica says of itself, apart from its group.
func selfGreeting(cfg *Config) greeting {
	return greeting{
		protocol: protocolRange{lowestProtocol, highestProtocol},
		levels:   cfg.FeatureLevel, node: cfg.NodeID, version: cfg.Version,
	}
}

// greeting returns what the replica says of itself now.
func (g *group) greeting() greeting {
	own := g.self
	if own.group = g.current(); own.group != (incarnation{}) {
		own.level = g.levels.now.Load()
	}
	return own
}

// meet introduces this replica to a peer that it called. target is the raft ID that a
// raft connection is meant for.
func (g *group) meet(conn net.Conn, magic, target string, timeout time.Duration) error {
	own := g.greeting()
	own.target = target
	theirs, err := introduce(conn, magic, own, timeout)
	if theirs == (greeting{}) {
		return err
	}
	if _, err := negotiate(own, theirs); err != nil {
		return err
	}
	// A peer that refuses may belong to a group that replaced this one.
	if err := g.checkPeer(theirs.group); err != nil {
		return err
	}
	if why := g.checkLevels(theirs); why != nil && magic == raftMagic {
		return why
	}
	return err
}

// admit receives the greeting of a caller on the RPC layer and answers it. A caller whose
// feature level does not match is admitted, see answers.
func (g *group) admit(conn net.Conn) (greeting, error) {
	theirs, err := receive(conn, rpcMagic)
	if err != nil {
		return theirs, err
	}
	own, v := g.greeting(), verdictWelcome
	_, why := negotiate(own, theirs)
	if why == nil {
		why = g.checkPeer(theirs.group)
	}
	if refused := why; refused != nil {
		return theirs, errors.Join(refused, answer(conn, verdictRefused, own, refused))
	}
	if why = g.checkLevels(theirs); why != nil {
		v = verdictLimited
	}
	return theirs, answer(conn, v, own, why)
}

// checkLevels returns why this replica and a peer cannot work together. If the reason is
// that this version is too old for its own group, the replica says so from now on.
func (g *group) checkLevels(theirs greeting) error {
	own := g.greeting()
	if theirs.levels.Highest == 0 {
		return fmt.Errorf("%w: %s does not say which feature levels it knows", ErrFeatureLevel, theirs.name())
	}
	err := checkLevels(own, theirs)
	if err != nil && own.group == theirs.group && theirs.level > own.levels.Highest {
		g.tooOld.Store(&err)
	}
	return err
}

// answers returns why a request of a caller is not answered: the feature levels do not
// match. A question for the figures of a replica is always answered, because they say
// which levels it knows and why it does not work. The level may have been raised since
// the introduction.
func (g *group) answers(op opcode, theirs greeting) error {
	level := g.levels.now.Load()
	if op == opStats || theirs.levels.Contains(level) && (theirs.level == 0 || g.levels.known.Contains(theirs.level)) {
		return nil
	}
	return g.checkLevels(theirs)
}

// versionTooOld returns why this version cannot work with its group any more, nil if
// nobody has said so. A replica that the leader's entries reach knows better than the peer
// that said it.
func (s *Store) versionTooOld() error {
	why := s.group.tooOld.Load()
	if why == nil {
		return nil
	}
	if s.HearsLeader() {
		s.group.tooOld.CompareAndSwap(why, nil)
		return nil
	}
	return *why
}
