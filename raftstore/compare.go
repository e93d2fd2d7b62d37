package raftstore

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// Replicas apply the same log, so their states are the same, unless a version judges an
// entry differently, a constraint is not pure, or memory is faulty. Nothing in Raft would
// notice. So the leader regularly publishes the digest of its state at a log index, and
// every replica compares it with its own. Where they differ, the replica asks the voters
// for their digests, and if a majority of them agree on another one, it halts. The leader
// asks the voters each time, because it may itself be the odd one. No replica halts
// because a single other one says so, and none halts without a majority.

// keyDiverged of the stable store says that the state on the disk is not the group's.
var keyDiverged = []byte("VirtmeshDiverged")

// publishedDigest is the digest of a replica's state at a log index.
type publishedDigest struct {
	index  uint64
	digest digest
}

const publishedBytes = 1 + 8 + len(digest{})

func (p publishedDigest) encode() []byte {
	b := append(make([]byte, 0, publishedBytes), digestVersion)
	b = binary.LittleEndian.AppendUint64(b, p.index)
	return append(b, p.digest[:]...)
}

// decodePublished reads what encode wrote, or the beginning of it that asks for a digest.
func decodePublished(b []byte) (publishedDigest, error) {
	r := &reader{b: b}
	version := r.byte()
	p := publishedDigest{index: r.uint64()}
	copy(p.digest[:], r.b)
	if r.err != nil || len(r.b) != 0 && len(r.b) != len(p.digest) {
		return publishedDigest{}, fmt.Errorf("%w: digest: %w", ErrInvalidTxn, errDecode)
	}
	if version != digestVersion {
		return publishedDigest{}, fmt.Errorf("%w: digest of version %d, this replica makes version %d", ErrInvalidTxn, version, digestVersion)
	}
	return p, nil
}

// compareLoop compares the digests of replicas until the store is closed: as the leader
// at intervals, and otherwise whenever the leader has published one.
func (s *Store) compareLoop() {
	if s.cfg.Timing.Compare == 0 {
		return
	}
	tick := time.NewTicker(s.cfg.Timing.Compare)
	defer tick.Stop()
	for {
		select {
		case <-s.published.wake:
			s.comparePublished(s.published.newest())
		case <-tick.C:
			if s.IsLeader() {
				s.publishDigest()
			}
		case <-s.failure.failed:
			return
		case <-s.closing:
			return
		}
	}
}

// publishDigest makes sure that this leader agrees with the voters, and sends its digest
// to all replicas.
func (s *Store) publishDigest() {
	p := publishedDigest{index: s.applied.get()}
	servers, err := s.servers()
	if err != nil {
		return
	}
	var ok bool
	if p.digest, ok = s.digests.at(p.index); !ok || !s.agreeWithVoters(p, servers) {
		return
	}
	for _, srv := range servers {
		if srv.ID != s.id {
			s.peers.notify(string(srv.Address), opPublishDigest, p.encode())
		}
	}
}

// comparePublished compares a digest that the leader has published with this replica's.
func (s *Store) comparePublished(p publishedDigest) {
	ctx, cancel := context.WithTimeout(s.base, s.cfg.Timing.RPC)
	defer cancel()
	if s.applied.wait(ctx, p.index) != nil {
		return // the leader publishes a later one soon
	}
	own, ok := s.digests.at(p.index)
	if !ok || own == p.digest {
		return
	}
	if servers, err := s.servers(); err == nil {
		s.agreeWithVoters(publishedDigest{p.index, own}, servers)
	}
}

// agreeWithVoters asks the voters for their digests and reports whether a majority of
// them has this replica's. If a majority agrees on another one, the replica halts.
func (s *Store) agreeWithVoters(own publishedDigest, servers []raft.Server) bool {
	voters := slices.DeleteFunc(slices.Clone(servers), func(srv raft.Server) bool { return srv.Suffrage != raft.Voter })
	holders := s.digestsOf(voters, own)
	if len(holders) > 1 {
		s.metrics.mismatches.Inc()
		s.log.Error("replicas differ in their state", "index", own.index, "digests", describeHolders(holders))
	}
	for d, names := range holders {
		if 2*len(names) <= len(voters) {
			continue
		}
		if d == own.digest {
			return true
		}
		s.haltDiverged(fmt.Errorf("%w: at log index %d its digest is %s, and %d of %d voters have %s (%s)",
			ErrDiverged, own.index, own.digest, len(names), len(voters), d, strings.Join(names, ", ")))
		return false
	}
	return false
}

// digestsOf asks voters for their digests at the index of own, which is this replica's.
// It returns the names of those who answered, by their digests; if this replica does not
// vote, its digest has no names.
func (s *Store) digestsOf(voters []raft.Server, own publishedDigest) map[digest][]string {
	ctx, cancel := context.WithTimeout(s.base, s.cfg.Timing.RPC)
	defer cancel()
	question := own.encode()[:1+8]
	holders := map[digest][]string{own.digest: nil}
	var mu sync.Mutex
	var asking sync.WaitGroup
	for _, voter := range voters {
		if voter.ID == s.id {
			mu.Lock()
			holders[own.digest] = append(holders[own.digest], nodeOf(voter.ID))
			mu.Unlock()
			continue
		}
		asking.Go(func() {
			answer, err := s.peers.call(ctx, string(voter.Address), opDigest, question)
			if err != nil {
				return
			}
			theirs, err := decodePublished(answer)
			if err != nil || theirs.index != own.index {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			holders[theirs.digest] = append(holders[theirs.digest], nodeOf(voter.ID))
		})
	}
	asking.Wait()
	for _, names := range holders {
		slices.Sort(names)
	}
	return holders
}

func describeHolders(holders map[digest][]string) string {
	var list []string
	for d, names := range holders {
		if len(names) == 0 {
			names = []string{"this replica"}
		}
		list = append(list, d.String()+": "+strings.Join(names, ", "))
	}
	slices.Sort(list)
	return strings.Join(list, "; ")
}

// serveDigest answers with this replica's digest at an index, once it has applied it.
func (s *Store) serveDigest(ctx context.Context, question []byte) ([]byte, error) {
	p, err := decodePublished(question)
	if err != nil {
		return nil, err
	}
	if err := s.applied.wait(ctx, p.index); err != nil {
		return nil, err
	}
	var ok bool
	if p.digest, ok = s.digests.at(p.index); !ok {
		return nil, fmt.Errorf("%w: the digest at log index %d is not kept any more", ErrCompacted, p.index)
	}
	return p.encode(), nil
}

// haltDiverged halts the replica for good: at every later start it fails with the same
// error, until its state was deleted.
func (s *Store) haltDiverged(err error) {
	text := err.Error()
	if serr := s.group.writeDisk(func() error { return s.disk.stable.Set(keyDiverged, []byte(text)) }); serr != nil {
		s.log.Error("could not store that this replica has diverged", "err", serr)
	}
	s.haltReplica(fmt.Errorf("%w: %w; empty %s and join again", ErrHalted, err, s.cfg.DataDir))
}

// divergence returns the error of an earlier haltDiverged, nil if there was none.
func (d *disk) divergence() error {
	text, err := d.get(keyDiverged)
	if err != nil || len(text) == 0 {
		return err
	}
	found := strings.TrimPrefix(string(text), ErrDiverged.Error())
	return fmt.Errorf("%w%s; empty %s and join again", ErrDiverged, found, d.dir)
}
