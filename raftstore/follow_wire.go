package raftstore

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"
)

// A follower pulls: it asks a source for the committed entries behind those that it has,
// and the source waits until there are some, or for a heartbeat. Both messages are a
// header in JSON, whose unknown fields are skipped, and entries in binary. Everything in
// them comes from another host and is checked before use.

// Bounds of pulls, in both directions.
const (
	maxPullEntries = 1024
	maxPullBytes   = 1 << 20 // of entries; one entry may be larger
	maxPullHeader  = 4 << 20
	maxPath        = 64
	maxOffers      = 16
	maxReport      = 4096
	// maxTerm is far above what any group reaches. A feeder cannot push a term so high that
	// terms run out.
	maxTerm = 1 << 48
)

// pullRequest asks a source for the entries after an index.
type pullRequest struct {
	ID    string `json:"id"` // the follower's raft ID
	Addr  string `json:"addr"`
	Zone  string `json:"zone,omitempty"`
	After uint64 `json:"after"`
	// Probe asks only whether the source has room, and where else there is some.
	Probe bool `json:"probe,omitempty"`
	// Fresh asks for an answer at once: the follower has just come to this source.
	Fresh bool `json:"fresh,omitempty"`
	// Known ranks the newest statements of the voters that the follower has.
	Known statementsRank `json:"known,omitzero"`
	// Report is what the follower knows of itself and of those below it, now and then.
	Report []reportLine `json:"report,omitempty"`
}

// reportLine is what a source reports of a follower to its own source, and a voter to the
// leader.
type reportLine struct {
	ID      string        `json:"i"`
	Addr    string        `json:"a"`
	Source  string        `json:"s,omitempty"` // the node that feeds it
	Zone    string        `json:"z,omitempty"`
	Applied uint64        `json:"x"`
	Depth   int           `json:"d"` // below the one who reports
	Room    int           `json:"r,omitempty"`
	Age     time.Duration `json:"g"` // since it was last heard
	Failure string        `json:"f,omitempty"`
}

// feedLeader is the leader as a feed names it.
type feedLeader struct {
	ID   string `json:"id,omitempty"`
	Addr string `json:"addr,omitempty"`
	Term uint64 `json:"term,omitempty"`
	// Age is how long ago the leader was heard along the path; negative if it never was.
	Age time.Duration `json:"age"`
}

// offer names a replica that may have room for a follower.
type offer struct {
	Node  string `json:"node"`
	Addr  string `json:"addr"`
	Zone  string `json:"zone,omitempty"`
	Depth int    `json:"depth"` // of the source below the voters, which have depth 0
	Room  int    `json:"room,omitempty"`
}

// snapshotOffer describes the snapshot of a source that has compacted the entries that a
// follower asks for.
type snapshotOffer struct {
	Name               string        `json:"name"`
	Index              uint64        `json:"index"`
	Term               uint64        `json:"term"`
	Size               int64         `json:"size"`
	Servers            []raft.Server `json:"servers"`
	ConfigurationIndex uint64        `json:"configurationIndex"`
}

// pullAnswer is what a source answers.
type pullAnswer struct {
	// Refused says why the source does not feed the follower. Offers name replicas that may.
	Refused string  `json:"refused,omitempty"`
	Offers  []offer `json:"offers,omitempty"`

	Leader feedLeader `json:"leader"`
	Commit uint64     `json:"commit"`
	// Path holds the node IDs from the source up to a voter.
	Path []string `json:"path,omitempty"`
	// Spares are the nodes that are promoted next. They are fed by voters.
	Spares []string `json:"spares,omitempty"`
	// PrevTerm is the term of the entry at pullRequest.After, zero if the source does not
	// have it any more.
	PrevTerm uint64         `json:"prevTerm,omitempty"`
	Snapshot *snapshotOffer `json:"snapshot,omitempty"`
	// Statements are those that a majority of the voters has signed, if they say more than
	// the follower knows.
	Statements []byte `json:"statements,omitempty"`

	entries []*raft.Log
}

// encodePull encodes the header of a request or an answer.
func encodePull(header any) ([]byte, error) {
	b, err := json.Marshal(header)
	if err != nil {
		return nil, fmt.Errorf("encode pull: %w", err)
	}
	return appendBytes(nil, b), nil
}

func (a *pullAnswer) encode() ([]byte, error) {
	b, err := encodePull(a)
	if err != nil {
		return nil, err
	}
	b = binary.AppendUvarint(b, uint64(len(a.entries)))
	for _, l := range a.entries {
		b = binary.AppendUvarint(b, l.Index)
		b = binary.AppendUvarint(b, l.Term)
		b = append(b, byte(l.Type))
		b = appendBytes(b, l.Data)
	}
	return b, nil
}

// decodePullHeader reads the header of a message into header and returns the rest.
func decodePullHeader(b []byte, header any) (*reader, error) {
	r := &reader{b: b}
	head := r.alias()
	if r.err != nil || len(head) > maxPullHeader {
		return nil, fmt.Errorf("%w: pull: %w", ErrInvalidTxn, errDecode)
	}
	if err := json.Unmarshal(head, header); err != nil {
		return nil, fmt.Errorf("%w: pull: %w", ErrInvalidTxn, err)
	}
	return r, nil
}

func decodePullRequest(b []byte) (*pullRequest, error) {
	q := new(pullRequest)
	if _, err := decodePullHeader(b, q); err != nil {
		return nil, err
	}
	if nodeOf(raft.ServerID(q.ID)) == "" || q.Addr == "" || len(q.ID) > 255 || len(q.Addr) > 255 || len(q.Zone) > 255 || len(q.Report) > maxReport {
		return nil, fmt.Errorf("%w: pull: its sender has no ID or no address, or a field is too long", ErrInvalidTxn)
	}
	return q, nil
}

// decodePullAnswer reads an answer to a request for the entries after an index.
func decodePullAnswer(b []byte, after uint64) (*pullAnswer, error) {
	a := new(pullAnswer)
	r, err := decodePullHeader(b, a)
	if err != nil {
		return nil, err
	}
	for range r.count(maxPullEntries) {
		l := &raft.Log{Index: r.uvarint(), Term: r.uvarint(), Type: raft.LogType(r.byte()), Data: r.bytes()}
		a.entries = append(a.entries, l)
	}
	if r.err != nil {
		return nil, fmt.Errorf("%w: entries of a pull: %w", ErrInvalidTxn, r.err)
	}
	return a, a.check(after)
}

// check refuses an answer that the local Raft must not see. What the entries say is judged
// by digests, not here.
func (a *pullAnswer) check(after uint64) error {
	if len(a.Path) > maxPath || len(a.Offers) > maxOffers || len(a.Spares) > maxPath || a.Leader.Term > maxTerm {
		return fmt.Errorf("%w: a pull was answered beyond its bounds", ErrInvalidTxn)
	}
	term := a.PrevTerm
	for i, l := range a.entries {
		if l.Index != after+1+uint64(i) || l.Term < term || l.Term > maxTerm {
			return fmt.Errorf("%w: entry %d of term %d does not follow entry %d of term %d", ErrInvalidTxn, l.Index, l.Term, after+uint64(i), term)
		}
		term = l.Term
		if err := checkFedEntry(l); err != nil {
			return fmt.Errorf("%w: entry %d: %w", ErrInvalidTxn, l.Index, err)
		}
	}
	if n := len(a.entries); n > 0 && a.Commit < a.entries[n-1].Index {
		return fmt.Errorf("%w: a source sends entries beyond its commit index %d", ErrInvalidTxn, a.Commit)
	}
	if o := a.Snapshot; o != nil && (o.Index <= after || o.Term > maxTerm || o.Size <= 0 || len(o.Servers) > maxReport || o.ConfigurationIndex > o.Index) {
		return fmt.Errorf("%w: snapshot at %d of %d bytes cannot follow %d", ErrInvalidTxn, o.Index, o.Size, after)
	}
	return nil
}

// checkFedEntry refuses an entry that could stop the local Raft: a kind that no version of
// this package writes, or one that does not decode.
func checkFedEntry(l *raft.Log) error {
	switch l.Type {
	case raft.LogCommand:
		if _, err := decodeEntry(l.Data); errors.Is(err, ErrCorruptLog) {
			return err
		}
	case raft.LogConfiguration:
		return checkConfiguration(l.Data)
	case raft.LogNoop, raft.LogBarrier:
	default:
		return fmt.Errorf("type %s", l.Type)
	}
	return nil
}

// checkConfiguration reports whether Raft can decode a configuration. Raft panics if it
// cannot.
func checkConfiguration(b []byte) (err error) {
	defer func() {
		if cause := recover(); cause != nil {
			err = fmt.Errorf("configuration: %w: %v", errDecode, cause)
		}
	}()
	if len(raft.DecodeConfiguration(b).Servers) == 0 {
		return fmt.Errorf("configuration without servers: %w", errDecode)
	}
	return nil
}

// snapshotRequest asks a source for a piece of a snapshot.
type snapshotRequest struct {
	ID     string `json:"id"` // the follower's raft ID
	Name   string `json:"name"`
	Offset int64  `json:"offset"`
}
