package raftstore

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// A recovery makes one replica the whole group. The other replicas still know the
// old group: if a majority of them came back, they would elect a leader of their
// own, and a single one would be added to the new group with a log that differs.
// Raft cannot detect this, because terms and indexes look alike. So every group has
// an incarnation, which is set when the group is founded, recovered or restored.
// Replicas of different incarnations refuse each other.

// Keys of the stable store.
var (
	keyGroup      = []byte("VirtmeshGroup")      // the incarnation of this data's group
	keyReplaced   = []byte("VirtmeshReplaced")   // the incarnation that replaced that group
	keyRecovering = []byte("VirtmeshRecovering") // the incarnation that a recovery is about to set
	keyJoined     = []byte("VirtmeshJoined")     // set once this data has been the whole state of its group
	keyTerm       = []byte("CurrentTerm")        // hashicorp/raft's own key
)

// incarnation identifies a group. It holds the time at which the group began, which
// orders incarnations, and random bytes. The zero value stands for no group.
type incarnation [16]byte

// newIncarnation returns an incarnation that is later than all those in old. If the
// clock is behind one of them, it leaves room for the revisions that its group has
// given out since, see timelineStart.
func newIncarnation(old ...incarnation) incarnation {
	at := uint64(time.Now().UnixNano())
	for _, o := range old {
		if began := binary.BigEndian.Uint64(o[:]); at <= began {
			at = began + leastLeap*uint64(time.Microsecond)
		}
	}
	var fresh incarnation
	binary.BigEndian.PutUint64(fresh[:], at)
	_, _ = rand.Read(fresh[8:]) // never fails
	return fresh
}

// String implements fmt.Stringer.
func (i incarnation) String() string {
	if i == (incarnation{}) {
		return "none"
	}
	return hex.EncodeToString(i[:])
}

// replaces reports whether i began later than o.
func (i incarnation) replaces(o incarnation) bool { return bytes.Compare(i[:], o[:]) > 0 }

// MarshalText implements encoding.TextMarshaler.
func (i incarnation) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, i[:]), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (i *incarnation) UnmarshalText(text []byte) (err error) {
	b, err := hex.DecodeString(string(text))
	if err != nil {
		return fmt.Errorf("group incarnation: %w", err)
	}
	*i, err = parseIncarnation(b)
	return err
}

func parseIncarnation(b []byte) (incarnation, error) {
	var i incarnation
	if len(b) != len(i) {
		return i, fmt.Errorf("group incarnation of %d bytes: %w", len(b), errDecode)
	}
	copy(i[:], b)
	return i, nil
}

// errOtherGroup: the peer belongs to no group, or to one that this replica's group
// replaced.
var errOtherGroup = errors.New("peer does not belong to this group")

// group is what a replica knows about the group it belongs to.
type group struct {
	disk *disk
	log  *slog.Logger
	dir  string
	self greeting // without what changes: the group and its level
	halt func(error)
	own  atomic.Pointer[incarnation] // nil before the replica belongs to a group
	// known is closed once own is set.
	known chan struct{}
	// levels is the feature level of the group. tooOld is why this version cannot work with
	// a peer of the same group.
	levels *levelState
	tooOld atomic.Pointer[error]

	mu     sync.Mutex // guards joined and serialises adopt
	joined bool

	writing sync.Mutex // held while the disk is written, so that close waits for the write
	closed  bool
}

// openGroup reads the group of a replica from its disk. A disk without a log and
// without snapshots belongs to no group, whatever an interrupted start left there.
func openGroup(d *disk, log *slog.Logger, cfg *Config, levels *levelState, halt func(error)) (*group, error) {
	dir := cfg.DataDir
	g := &group{disk: d, log: log, dir: dir, self: selfGreeting(cfg), halt: halt, known: make(chan struct{}), levels: levels}
	empty, err := d.empty()
	if err != nil || empty {
		return g, err
	}
	own, err := d.incarnation(keyGroup)
	if err != nil {
		return nil, err
	}
	replaced, err := d.incarnation(keyReplaced)
	if err != nil {
		return nil, err
	}
	recovering, err := d.incarnation(keyRecovering)
	if err != nil {
		return nil, err
	}
	none := incarnation{}
	if own != none {
		g.setOwn(own)
	}
	switch {
	case recovering != none:
		return nil, errors.New("a recovery of this replica was interrupted: repeat it")
	case replaced != none:
		return nil, g.replacedError(replaced)
	case own == none:
		return nil, fmt.Errorf("%w: %s does not say which group its state belongs to", ErrCorruptLog, dir)
	}
	if err := d.divergence(); err != nil {
		return nil, err
	}
	joined, err := d.get(keyJoined)
	if err != nil {
		return nil, err
	}
	g.joined = len(joined) > 0
	return g, nil
}

// writeDisk calls do, which writes the disk, unless the group was closed.
func (g *group) writeDisk(do func() error) error {
	g.writing.Lock()
	defer g.writing.Unlock()
	if g.closed {
		return ErrClosed
	}
	return do()
}

// close waits for a write in progress. Nothing writes the disk afterwards.
func (g *group) close() {
	g.writing.Lock()
	defer g.writing.Unlock()
	g.closed = true
}

// setOwn sets the incarnation of the replica's group. It is called once.
func (g *group) setOwn(own incarnation) {
	g.own.Store(&own)
	close(g.known)
}

// current returns the incarnation of the replica's group, zero before it belongs to
// one.
func (g *group) current() incarnation {
	if p := g.own.Load(); p != nil {
		return *p
	}
	return incarnation{}
}

// adopt records the group that added this replica. A replica adopts a group only
// once, because the entries of that group must not mix with those of another.
func (g *group) adopt(i incarnation) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch own := g.current(); {
	case i == incarnation{}:
		return fmt.Errorf("%w: it belongs to no group", errOtherGroup)
	case own == i:
		return nil
	case own != incarnation{}:
		return g.refuseOtherGroup(i)
	}
	if err := g.writeDisk(func() error { return g.disk.setGroup(i, false) }); err != nil {
		return err
	}
	g.setOwn(i)
	return nil
}

// setJoined records that the replica has held the whole state of its group.
func (g *group) setJoined() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.joined {
		return nil
	}
	if err := g.writeDisk(func() error { return g.disk.stable.Set(keyJoined, []byte{1}) }); err != nil {
		return fmt.Errorf("store that the replica has joined: %w", err)
	}
	g.joined = true
	return nil
}

func (g *group) hasJoined() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.joined
}

// checkPeer returns an error if the peer belongs to another group. A replica
// without a group may talk to any peer, because it asks to join, or is asked for its
// stats.
func (g *group) checkPeer(theirs incarnation) error {
	own := g.current()
	if theirs == own || theirs == (incarnation{}) || own == (incarnation{}) {
		return nil
	}
	return g.refuseOtherGroup(theirs)
}

// refuseOtherGroup returns the error for a peer of another group. If the peer's
// group is the later one, it has replaced this replica's group. The replica then
// halts, and fails at every later start, because it must not act for the mesh any
// more.
func (g *group) refuseOtherGroup(theirs incarnation) error {
	own := g.current()
	if !theirs.replaces(own) {
		return fmt.Errorf("%w: its group %s was replaced by this replica's group %s", errOtherGroup, theirs, own)
	}
	err := g.replacedError(theirs)
	if serr := g.writeDisk(func() error { return g.disk.stable.Set(keyReplaced, theirs[:]) }); serr != nil {
		g.log.Error("could not store that this replica's group was replaced", "err", serr)
	}
	g.halt(fmt.Errorf("%w: %w", ErrHalted, err))
	return err
}

func (g *group) replacedError(by incarnation) error {
	return fmt.Errorf("%w: its group is %s, the current group %s", ErrReplaced, g.current(), by)
}

// empty reports whether the disk holds neither log entries nor snapshots.
func (d *disk) empty() (bool, error) {
	last, err := d.logs.LastIndex()
	if err != nil {
		return false, diskError(err, "read last index")
	}
	if last > 0 {
		return false, nil
	}
	list, err := d.listSnapshots()
	return err == nil && len(list) == 0, err
}

// get reads a key of the stable store. It returns nothing and no error if the key
// does not exist.
func (d *disk) get(key []byte) ([]byte, error) {
	b, err := d.stable.Get(key)
	if err != nil && err.Error() != "not found" { // hashicorp/raft compares this text too
		return nil, diskError(err, "read %s", key)
	}
	return b, nil
}

func (d *disk) incarnation(key []byte) (incarnation, error) {
	b, err := d.get(key)
	if err != nil || len(b) == 0 {
		return incarnation{}, err
	}
	i, err := parseIncarnation(b)
	if err != nil {
		return i, diskError(err, "read %s", key)
	}
	return i, nil
}

// setGroup stores which group the disk's state belongs to, and whether the state is
// complete. For new state it is called before the state is written: until the state
// follows, the disk counts as empty.
func (d *disk) setGroup(i incarnation, joined bool) error {
	var whole []byte
	if joined {
		whole = []byte{1}
	}
	for _, v := range []struct{ key, value []byte }{
		{keyReplaced, nil}, {keyDiverged, nil}, {keyJoined, whole}, {keyGroup, i[:]}, {keyRecovering, nil},
	} {
		if err := d.stable.Set(v.key, v.value); err != nil {
			return fmt.Errorf("store %s: %w", v.key, err)
		}
	}
	return nil
}
