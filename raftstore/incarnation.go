package raftstore

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

// A recovery makes one replica the whole group. The others still know the old
// group: a majority of them that comes back would elect a leader of its own, and
// one of them alone would be taken in with a log that differs. Raft cannot tell,
// terms and indexes look alike. So every group has an incarnation, set when it is
// founded, recovered or restored, and replicas of different ones do not talk.

// Keys of the stable store.
var (
	keyGroup      = []byte("VirtmeshGroup")      // the incarnation of this data's group
	keyReplaced   = []byte("VirtmeshReplaced")   // the incarnation that replaced it
	keyRecovering = []byte("VirtmeshRecovering") // the one that a recovery is about to set
	keyJoined     = []byte("VirtmeshJoined")     // this data once was the whole state
	keyTerm       = []byte("CurrentTerm")        // raft's own
)

// incarnation names a group: when it began, which orders them, and random bytes.
// The zero value is that of a replica that belongs to no group yet.
type incarnation [16]byte

// newIncarnation makes one that replaces all of the given ones.
func newIncarnation(old ...incarnation) incarnation {
	at := uint64(time.Now().UnixNano())
	for _, o := range old {
		at = max(at, binary.BigEndian.Uint64(o[:])+1)
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

// replaces tells whether i is the younger of two groups.
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

// errOtherGroup: the peer is of a group that this one's replaced, or of none.
var errOtherGroup = errors.New("peer does not belong to this group")

// group is what a replica knows of the group it belongs to.
type group struct {
	disk *disk
	log  *slog.Logger
	dir  string
	halt func(error)
	own  atomic.Pointer[incarnation] // nil before the replica joined one
	// known is closed once own is set.
	known chan struct{}

	mu     sync.Mutex // guards joined, and lets one adopt at a time
	joined bool

	writing sync.Mutex // held while the disk is written, which Close must not overtake
	closed  bool
}

// openGroup reads what the disk says. A disk without log and snapshot belongs to
// no group, whatever an interrupted start left there.
func openGroup(d *disk, log *slog.Logger, dir string, halt func(error)) (*group, error) {
	g := &group{disk: d, log: log, dir: dir, halt: halt, known: make(chan struct{})}
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
		g.set(own)
	}
	switch {
	case recovering != none:
		return nil, errors.New("a recovery of this replica was interrupted: repeat it")
	case replaced != none:
		return nil, g.replacedError(replaced)
	case own == none:
		return nil, fmt.Errorf("%w: %s does not say which group its state is of", ErrCorruptLog, dir)
	}
	joined, err := d.get(keyJoined)
	if err != nil {
		return nil, err
	}
	g.joined = len(joined) > 0
	return g, nil
}

// write has the disk written, unless it was closed.
func (g *group) write(do func() error) error {
	g.writing.Lock()
	defer g.writing.Unlock()
	if g.closed {
		return ErrClosed
	}
	return do()
}

// close lets nobody write to the disk any more.
func (g *group) close() {
	g.writing.Lock()
	defer g.writing.Unlock()
	g.closed = true
}

func (g *group) set(own incarnation) {
	g.own.Store(&own)
	close(g.known)
}

// current is the incarnation, zero before the replica belongs to a group.
func (g *group) current() incarnation {
	if p := g.own.Load(); p != nil {
		return *p
	}
	return incarnation{}
}

// adopt makes the replica one of a group that took it in. It is done once: what
// the leader of that group then sends must not meet another group's entries.
func (g *group) adopt(i incarnation) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch own := g.current(); {
	case i == incarnation{}:
		return fmt.Errorf("%w: it belongs to none", errOtherGroup)
	case own == i:
		return nil
	case own != incarnation{}:
		return g.judge(i)
	}
	if err := g.write(func() error { return g.disk.setGroup(i, false) }); err != nil {
		return err
	}
	g.set(i)
	return nil
}

// setJoined notes that the replica has been the whole state of its group.
func (g *group) setJoined() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.joined {
		return nil
	}
	if err := g.write(func() error { return g.disk.stable.Set(keyJoined, []byte{1}) }); err != nil {
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

// meet judges a peer by its group. A side that belongs to none may talk to all:
// it asks to be taken in, or is asked how it is.
func (g *group) meet(theirs incarnation) error {
	own := g.current()
	if theirs == own || theirs == (incarnation{}) || own == (incarnation{}) {
		return nil
	}
	return g.judge(theirs)
}

// judge says why a peer of another group is refused. If its group is the younger
// one, this replica's has been replaced, and the replica halts, now and at every
// later start: it must not go on as if it were the mesh.
func (g *group) judge(theirs incarnation) error {
	own := g.current()
	if !theirs.replaces(own) {
		return fmt.Errorf("%w: its group %s was replaced by %s, which this replica is of", errOtherGroup, theirs, own)
	}
	err := g.replacedError(theirs)
	if serr := g.write(func() error { return g.disk.stable.Set(keyReplaced, theirs[:]) }); serr != nil {
		g.log.Error("the end of this replica's group could not be stored", "err", serr)
	}
	g.halt(fmt.Errorf("%w: %w", ErrHalted, err))
	return err
}

func (g *group) replacedError(by incarnation) error {
	return fmt.Errorf("%w: empty %s and join again (its group is %s, the present one %s)", ErrReplaced, g.dir, g.current(), by)
}

// greet exchanges hellos and refuses a replica of another group.
func (g *group) greet(conn net.Conn, r *bufio.Reader) (incarnation, error) {
	theirs, err := greet(conn, r, g.current())
	if err == nil {
		err = g.meet(theirs)
	}
	return theirs, err
}

// empty tells whether the disk holds nothing of any group.
func (d *disk) empty() (bool, error) {
	last, err := d.logs.LastIndex()
	if err != nil {
		return false, fmt.Errorf("%w: read last index: %w", ErrCorruptLog, err)
	}
	if last > 0 {
		return false, nil
	}
	list, err := d.snapshots.List()
	if err != nil {
		return false, fmt.Errorf("%w: list snapshots: %w", ErrCorruptLog, err)
	}
	return len(list) == 0, nil
}

// get reads the stable store; nothing there is no error.
func (d *disk) get(key []byte) ([]byte, error) {
	b, err := d.stable.Get(key)
	if err != nil && err.Error() != "not found" { // raft's own way to tell
		return nil, fmt.Errorf("%w: read %s: %w", ErrCorruptLog, key, err)
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
		return i, fmt.Errorf("%w: %s: %w", ErrCorruptLog, key, err)
	}
	return i, nil
}

// setGroup writes which group the disk's state is of, and whether all of it is
// there. For a new state it comes first: until the state follows, the disk counts
// as empty.
func (d *disk) setGroup(i incarnation, joined bool) error {
	var whole []byte
	if joined {
		whole = []byte{1}
	}
	for _, v := range []struct{ key, value []byte }{
		{keyReplaced, nil}, {keyJoined, whole}, {keyGroup, i[:]}, {keyRecovering, nil},
	} {
		if err := d.stable.Set(v.key, v.value); err != nil {
			return fmt.Errorf("store %s: %w", v.key, err)
		}
	}
	return nil
}

// bootstrap makes an empty disk the first voter of a new group. What is there
// already stays: it may be repeated.
func (d *disk) bootstrap(conf *raft.Config, g *group, trans raft.Transport, first raft.Server) error {
	if empty, err := d.empty(); err != nil || !empty {
		return err
	}
	fresh := newIncarnation()
	if err := d.setGroup(fresh, true); err != nil {
		return err
	}
	// Raft stores the term before the entry, and an earlier try that ended in
	// between would look to it like a group.
	if err := d.stable.SetUint64(keyTerm, 0); err != nil {
		return fmt.Errorf("reset the term: %w", err)
	}
	if err := raft.BootstrapCluster(conf, d.logs, d.stable, d.snapshots, trans, raft.Configuration{Servers: []raft.Server{first}}); err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.joined = true
	g.set(fresh)
	return nil
}
