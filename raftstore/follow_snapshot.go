package raftstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	"golang.org/x/time/rate"
)

const (
	// maxSnapshotFeeds is how many followers get a snapshot from one source at once.
	maxSnapshotFeeds = 2
	snapshotPiece    = 512 << 10
	// incomingSnapshot is the file that a fed snapshot is received in.
	incomingSnapshot = "incoming-snapshot"
)

// snapshotFeeds are the snapshots that a source sends. They share a rate.
type snapshotFeeds struct {
	rate *rate.Limiter
	mu   *sync.Mutex
	open map[string]*snapshotFeed // by the follower's raft ID
}

type snapshotFeed struct {
	mu     sync.Mutex // held while a piece is read
	name   string
	offset int64
	r      io.ReadCloser
	used   time.Time // guarded by snapshotFeeds.mu
}

func newSnapshotFeeds(bytesPerSecond int) snapshotFeeds {
	return snapshotFeeds{
		rate: rate.NewLimiter(rate.Limit(bytesPerSecond), snapshotPiece), mu: new(sync.Mutex), open: map[string]*snapshotFeed{},
	}
}

// takeFeed returns the feed of a follower, nil if the source sends enough others. Feeds that
// were not used since a time are closed.
func (f *snapshotFeeds) takeFeed(id string, since time.Time) *snapshotFeed {
	f.mu.Lock()
	defer f.mu.Unlock()
	for other, feed := range f.open {
		if other != id && feed.used.Before(since) && feed.mu.TryLock() {
			feed.close()
			feed.mu.Unlock()
			delete(f.open, other)
		}
	}
	feed := f.open[id]
	if feed == nil {
		if len(f.open) >= maxSnapshotFeeds {
			return nil
		}
		feed = new(snapshotFeed)
		f.open[id] = feed
	}
	feed.used = time.Now()
	return feed
}

// drop ends a feed.
func (f *snapshotFeeds) drop(id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.open, id)
}

// closeAll closes every feed when the store has stopped serving.
func (f *snapshotFeeds) closeAll() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, feed := range f.open {
		feed.close()
	}
	clear(f.open)
}

func (f *snapshotFeed) close() {
	if f.r != nil {
		_ = f.r.Close() // it was only read
		f.r = nil
	}
}

// seek opens the snapshot at an offset, unless the feed is there already.
func (f *snapshotFeed) seek(d *disk, name string, offset int64) error {
	if f.r != nil && f.name == name && f.offset == offset {
		return nil
	}
	f.close()
	_, r, err := d.snapshots.Open(name)
	if err != nil {
		return fmt.Errorf("%w: open snapshot: %w", errNotLeader, err)
	}
	if _, err := io.CopyN(io.Discard, r, offset); err != nil {
		return errors.Join(fmt.Errorf("%w: read snapshot: %w", errNotLeader, err), r.Close())
	}
	f.name, f.offset, f.r = name, offset, r
	return nil
}

// serveSnapshot answers with the next piece of a snapshot, and nothing at its end.
func (s *Store) serveSnapshot(ctx context.Context, from net.Conn, payload []byte) ([]byte, error) {
	var q snapshotRequest
	if _, err := decodePullHeader(payload, &q); err != nil {
		return nil, err
	}
	if err := s.checkCaller(from, q.ID); err != nil {
		return nil, err
	}
	if node := nodeOf(raft.ServerID(q.ID)); q.Offset < 0 || !s.source.feeds(node) {
		return nil, fmt.Errorf("%w: %s is not fed by %s", ErrInvalidTxn, node, s.cfg.NodeID)
	}
	feeds := &s.source.snapshots
	feed := feeds.takeFeed(q.ID, time.Now().Add(-s.cfg.Timing.RPC))
	if feed == nil {
		return nil, fmt.Errorf("%w: %s sends %d snapshots already", errNotLeader, s.cfg.NodeID, maxSnapshotFeeds)
	}
	feed.mu.Lock()
	defer feed.mu.Unlock()
	piece, err := s.readPiece(ctx, feed, &q)
	if err != nil || len(piece) == 0 {
		feed.close()
		feeds.drop(q.ID)
	}
	s.source.touch(q.ID)
	return piece, err
}

func (s *Store) readPiece(ctx context.Context, feed *snapshotFeed, q *snapshotRequest) ([]byte, error) {
	if err := feed.seek(s.disk, q.Name, q.Offset); err != nil {
		return nil, err
	}
	if err := s.source.snapshots.rate.WaitN(ctx, snapshotPiece); err != nil {
		return nil, fmt.Errorf("%w: wait for the rate of snapshots: %w", errNotLeader, err)
	}
	piece := make([]byte, snapshotPiece)
	n, err := io.ReadFull(feed.r, piece)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, diskError(err, "read snapshot %s", q.Name)
	}
	feed.offset += int64(n)
	return piece[:n], nil
}

// installFedSnapshot receives the snapshot that a source offers, checks that the voters have
// signed as far and that it can be read, and installs it. statements are what the source has
// sent with the offer.
func (s *Store) installFedSnapshot(ctx context.Context, from offer, o *snapshotOffer, statements []byte) error {
	if err := s.checkReach(ctx, o.Index, statements); err != nil {
		return fmt.Errorf("snapshot from %s: %w", from.Node, err)
	}
	file, err := s.openIncoming()
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	if err := s.receiveSnapshot(ctx, from, o, file); err != nil {
		return fmt.Errorf("receive the snapshot at log index %d from %s: %w", o.Index, from.Node, err)
	}
	// Raft would keep a snapshot that it cannot restore, and fail to open it ever after.
	if err := file.rewind(); err != nil {
		return err
	}
	if _, index, err := readSnapshot(file, s.constraints, s.levels.known); err != nil || index > o.Index {
		return fmt.Errorf("snapshot at log index %d from %s holds the state at %d: %w", o.Index, from.Node, index, errors.Join(err, errDecode))
	}
	if err := file.rewind(); err != nil {
		return err
	}
	if err := s.noteFedSnapshot(o.Index, from.Node); err != nil {
		return err
	}
	if err := s.doubtVote(o.ConfigurationIndex, o.Servers); err != nil {
		return err
	}
	addr, leader := s.raft.LeaderWithID()
	if err := s.passToRaft(raft.RPC{Reader: file, Command: &raft.InstallSnapshotRequest{
		RPCHeader:       raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(leader), Addr: []byte(addr)},
		SnapshotVersion: raft.SnapshotVersionMax, Term: max(s.raft.CurrentTerm(), o.Term),
		LastLogIndex: o.Index, LastLogTerm: o.Term, Size: o.Size,
		Configuration: raft.EncodeConfiguration(raft.Configuration{Servers: o.Servers}), ConfigurationIndex: o.ConfigurationIndex,
	}}); err != nil {
		return fmt.Errorf("install the snapshot at log index %d from %s: %w", o.Index, from.Node, err)
	}
	return nil
}

// receiveSnapshot writes the snapshot to a file, piece by piece.
func (s *Store) receiveSnapshot(ctx context.Context, from offer, o *snapshotOffer, to io.Writer) error {
	for offset := int64(0); offset < o.Size; {
		payload, err := encodePull(snapshotRequest{ID: string(s.id), Name: o.Name, Offset: offset})
		if err != nil {
			return err
		}
		piece, err := s.peers.call(ctx, from.Addr, opPullSnapshot, payload)
		if err != nil {
			return err
		}
		if len(piece) == 0 || offset+int64(len(piece)) > o.Size {
			return fmt.Errorf("it has another size than the %d bytes announced: %w", o.Size, errDecode)
		}
		if _, err := to.Write(piece); err != nil {
			return diskError(err, "write %s", incomingSnapshot)
		}
		offset += int64(len(piece))
	}
	return nil
}

// incoming is what a fed snapshot is received in: a file, or memory if the store has no
// directory.
type incoming struct {
	io.ReadWriter
	rewind func() error
	close  func() error
}

// Close closes and deletes it.
func (i incoming) Close() error { return i.close() }

func (s *Store) openIncoming() (incoming, error) {
	if s.cfg.DataDir == "" {
		var b bytes.Buffer
		again := &rereader{&b, nil}
		return incoming{again, again.rewind, func() error { return nil }}, nil
	}
	path := filepath.Join(s.cfg.DataDir, incomingSnapshot)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return incoming{}, diskError(err, "create %s", path)
	}
	rewind := func() error {
		_, err := f.Seek(0, io.SeekStart)
		return err
	}
	return incoming{f, rewind, func() error { return errors.Join(f.Close(), os.Remove(path)) }}, nil
}

// rereader is memory that can be read again.
type rereader struct {
	written *bytes.Buffer
	left    *bytes.Reader
}

// Write implements io.Writer.
func (r *rereader) Write(b []byte) (int, error) { return r.written.Write(b) }

// Read implements io.Reader.
func (r *rereader) Read(b []byte) (int, error) { return r.left.Read(b) }

func (r *rereader) rewind() error {
	r.left = bytes.NewReader(r.written.Bytes())
	return nil
}
