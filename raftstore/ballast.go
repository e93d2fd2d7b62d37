package raftstore

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	"github.com/hashicorp/raft-wal/metadb"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"
)

// ballast is files that take room on the disk of the log, so that there is some when
// others, such as guests, have filled the disk. Each has the size of a file of the log, and
// room behind its end, where the library writes the end of a file that is full (endRoom). It
// becomes a file of the log when there is no room for the next (walFS.Create): the room is
// never free in between, so nobody else gets it. If a write needs room for something else,
// one is removed, and others may be faster to take its room. They are made anew when the disk
// has room again.
//
// It does not help where a file's room cannot be set aside: on NFS before 4.2 there is no
// ballast then. ZFS says that it has done so, and has not.
type ballast struct {
	dir     string
	segment int64 // bytes of a file
	pieces  int
	log     *slog.Logger

	mu   sync.Mutex
	have []string // the paths of the files
	off  bool     // the disk cannot set room aside
}

const (
	// ballastInterval is how often it is looked whether there is room for ballast.
	ballastInterval = 30 * time.Second
	// endRoom is the room behind the end of a file of the log. The library goes on to the next
	// file once one is full: the writes that went beyond its size, and the index of the file,
	// are behind its end.
	endRoom = 1 << 20
	// ballastSpare is how many times the missing ballast the free room must be before ballast
	// is made, so that it does not itself fill the disk.
	ballastSpare = 4
)

// openBallast takes over the ballast in dir, of which there should be pieces files, each
// with room for a file of the log of segment bytes. With no pieces it removes what is
// there.
func openBallast(dir string, pieces, segment int, log *slog.Logger) (*ballast, error) {
	b := &ballast{dir: dir, pieces: pieces, segment: int64(segment), log: log}
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("look for the ballast: %w", err)
	}
	for _, entry := range entries {
		path := filepath.Join(dir, entry.Name())
		info, err := entry.Info()
		// An earlier version made files whose size was that of the room.
		if err == nil && (info.Size() == b.segment || info.Size() == b.piece()) && len(b.have) < pieces {
			b.have = append(b.have, path)
			continue
		}
		_ = os.Remove(path) // of another size, or not finished
	}
	return b, nil
}

// piece returns the room that a file takes, in bytes.
func (b *ballast) piece() int64 { return b.segment + endRoom }

// refill makes the files that are missing, if the disk has plenty of room.
func (b *ballast) refill() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	missing := b.pieces - len(b.have)
	if missing == 0 || b.off {
		return nil
	}
	if err := os.MkdirAll(b.dir, 0o700); err != nil {
		return fmt.Errorf("make ballast: %w", err)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(b.dir, &st); err != nil {
		return fmt.Errorf("make ballast: %w", err)
	}
	if int64(st.Bavail)*st.Bsize < ballastSpare*int64(missing)*b.piece() {
		return nil
	}
	for i := 0; len(b.have) < b.pieces; i++ {
		path := filepath.Join(b.dir, strconv.Itoa(i))
		if slices.Contains(b.have, path) {
			continue
		}
		if err := allocate(path, b.segment); errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) {
			b.off = true
			b.log.Info("the disk cannot set room aside for the log", "dir", b.dir)
			return nil
		} else if err != nil {
			return fmt.Errorf("make ballast: %w", err)
		}
		b.have = append(b.have, path)
	}
	b.log.Info("room is set aside for the log", "dir", b.dir, "bytes", int64(b.pieces)*b.piece())
	return nil
}

// allocate makes a file of so many bytes, which takes endRoom more on the disk. On an error there
// is none.
func allocate(path string, bytes int64) (err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err = errors.Join(err, f.Close()); err != nil {
			_ = os.Remove(path)
		}
	}()
	// The size comes last: a file that has it is complete.
	if err := setRoomAside(f, unix.FALLOC_FL_KEEP_SIZE, bytes+endRoom); err != nil {
		return err
	}
	return setRoomAside(f, 0, bytes)
}

// setEndAside sets aside the room behind the end of a file of the log of size bytes. It does
// what it can: without that room, ballast is given up when the file is full.
func (b *ballast) setEndAside(path string, size int64) {
	if b == nil {
		return
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return
	}
	defer f.Close()
	_ = setRoomAside(f, unix.FALLOC_FL_KEEP_SIZE, size+endRoom)
}

// setRoomAside is fallocate(2), which a signal to the process may interrupt.
func setRoomAside(f *os.File, mode uint32, bytes int64) error {
	for {
		if err := unix.Fallocate(int(f.Fd()), mode, 0, bytes); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// release removes one file, so that something else has its room, and reports whether
// there was one.
func (b *ballast) release() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.have) == 0 {
		return false
	}
	path := b.have[len(b.have)-1]
	b.have = b.have[:len(b.have)-1]
	err := os.Remove(path)
	b.log.Warn("the disk is full: room that was set aside is used now; make room on the disk", "dir", b.dir, "left", len(b.have), "err", err)
	return err == nil
}

// metaRoom is what the list of the log's files may take with the vote. It takes some tens
// of kilobytes, and each change writes pages of its file that had no room on the disk yet.
const metaRoom = 1 << 20

// allocateMeta sets aside the room of the list of the log's files, without changing it. A
// disk that cannot do that, or is full already, leaves it as it is.
func allocateMeta(dir string) {
	f, err := os.OpenFile(filepath.Join(dir, metadb.FileName), os.O_RDWR, 0)
	if err != nil {
		return
	}
	defer f.Close()
	_ = setRoomAside(f, unix.FALLOC_FL_KEEP_SIZE, metaRoom)
}

// become makes a file of ballast the file at path, of size bytes, which must not exist. It
// reports whether there was one that is large enough.
func (b *ballast) become(path string, size int64) (bool, error) {
	if b == nil || size > b.segment {
		return false, nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.have) == 0 {
		return false, nil
	}
	piece := b.have[len(b.have)-1]
	b.have = b.have[:len(b.have)-1]
	info, err := os.Stat(piece)
	if err == nil && info.Size() != size { // which frees the room behind the end
		err = os.Truncate(piece, size)
	}
	if err == nil {
		err = os.Rename(piece, path)
	}
	if err != nil {
		return false, fmt.Errorf("make a file of the log of ballast: %w", err)
	}
	b.log.Warn("the disk is full: the log goes on in room that was set aside; make room on the disk", "dir", b.dir, "left", len(b.have))
	return true, syncDir(filepath.Dir(path))
}

// syncDir makes what was renamed into a directory outlast a loss of power.
func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// bytes returns the room that is set aside, which is none if b is nil.
func (b *ballast) bytes() int64 {
	if b == nil {
		return 0
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return int64(len(b.have)) * b.piece()
}

// withRoom calls write, and again each time that it fails for lack of room and ballast was
// given up for it.
func (b *ballast) withRoom(write func() error) error {
	for {
		err := write()
		if !isFull(err) || !b.release() {
			return err
		}
	}
}

// ballastedLog is a log whose writes use up the ballast when the disk is full. A write
// that failed for lack of room may be repeated: see walLog.
type ballastedLog struct {
	diskLog
	ballast *ballast
}

var (
	_ diskLog                = ballastedLog{}
	_ raft.MonotonicLogStore = ballastedLog{}
)

// IsMonotonic implements raft.MonotonicLogStore.
func (l ballastedLog) IsMonotonic() bool {
	m, ok := l.diskLog.(raft.MonotonicLogStore)
	return ok && m.IsMonotonic()
}

// StoreLog implements raft.LogStore.
func (l ballastedLog) StoreLog(entry *raft.Log) error { return l.StoreLogs([]*raft.Log{entry}) }

// StoreLogs implements raft.LogStore.
func (l ballastedLog) StoreLogs(entries []*raft.Log) error {
	return l.ballast.withRoom(func() error { return l.diskLog.StoreLogs(entries) })
}

// DeleteRange implements raft.LogStore.
func (l ballastedLog) DeleteRange(from, to uint64) error {
	return l.ballast.withRoom(func() error { return l.diskLog.DeleteRange(from, to) })
}

// Set implements raft.StableStore.
func (l ballastedLog) Set(key, value []byte) error {
	return l.ballast.withRoom(func() error { return l.diskLog.Set(key, value) })
}

// SetUint64 implements raft.StableStore.
func (l ballastedLog) SetUint64(key []byte, value uint64) error {
	return l.ballast.withRoom(func() error { return l.diskLog.SetUint64(key, value) })
}

func ballastGauge(b *ballast) prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: metricPrefix + "ballast_bytes", Help: "Room that is set aside on the disk for the log, for when others have filled it.",
	}, func() float64 { return float64(b.bytes()) })
}

// ballastLoop keeps the ballast until the store closes.
func (s *Store) ballastLoop() {
	if s.disk.ballast == nil || s.cfg.Limits.BallastFiles == 0 {
		return
	}
	for {
		if err := s.disk.ballast.refill(); err != nil {
			s.log.Warn("no room can be set aside for the log", "err", err)
		}
		select {
		case <-s.closing:
			return
		case <-time.After(ballastInterval):
		}
	}
}

// GiveRoom gives up a part of the room that is set aside on the disk of the log, for a small
// file beside it that the host cannot do without. It reports whether there was any.
func (s *Store) GiveRoom() bool { return s.disk.ballast != nil && s.disk.ballast.release() }
