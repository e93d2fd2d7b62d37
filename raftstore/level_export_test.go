package raftstore

import (
	"context"
	"io"
)

// CallerGreeting returns the first bytes of a caller on the RPC layer that speaks a
// version of the protocol and belongs to a group.
func CallerGreeting(protocol uint8, group [16]byte) []byte {
	return append([]byte(rpcMagic), greeting{protocol: protocolRange{protocol, protocol}, levels: KnownLevels(), group: group}.encode()...)
}

// ReadVerdict reads the answer to a greeting and returns whether the caller is welcome,
// and if not, why.
func ReadVerdict(r io.Reader) (welcome bool, why string, err error) {
	var v [1]byte
	if _, err := io.ReadFull(r, v[:]); err != nil {
		return false, "", err
	}
	if _, err := readGreeting(r); err != nil {
		return false, "", err
	}
	text, err := readShort(r)
	return verdict(v[0]) == verdictWelcome, string(text), err
}

// CommitAsPeer commits t at s, which leads, as a peer would that checks nothing.
func CommitAsPeer(s *Store, t Txn) error {
	var got error
	s.serveCommit(nil, encodeTxn(&t, 0), func(_ []byte, err error) { got = err })
	return got
}

// HearLevel lets a peer tell s that their group is at a level.
func HearLevel(s *Store, level uint32) {
	_ = s.group.checkLevels(greeting{node: "peer", version: "v9", levels: LevelRange{BaseLevel, level}, level: level, group: s.group.current()})
}

// AskAsFollower sends s what followers ask, and returns the answers.
func AskAsFollower(s *Store, payload []byte) map[string]error {
	_, pull := s.serveRequest(nil, opPull, payload)
	_, snapshot := s.serveRequest(nil, opPullSnapshot, payload)
	_, report := s.serveLeaderRequest(context.Background(), "", opReport, payload)
	return map[string]error{"pull": pull, "snapshot": snapshot, "report": report}
}
