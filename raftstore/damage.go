package raftstore

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/hashicorp/raft"
	wal "github.com/hashicorp/raft-wal"
	bolterrors "go.etcd.io/bbolt/errors"
)

// diskError says what an error of the log or of the snapshots means, and which act it
// ended. Only damage becomes ErrCorruptLog, because its remedy is to delete this copy: a
// disk that is read-only or fails for a while, or a process without free file
// descriptors, says nothing against the data. All other errors keep the system's words.
func diskError(err error, format string, args ...any) error {
	act := fmt.Sprintf(format, args...)
	switch {
	case isFull(err):
		return fmt.Errorf("%w: %s: %w", ErrDiskFull, act, err)
	case isDamage(err) && !errors.Is(err, ErrCorruptLog):
		return fmt.Errorf("%w: %s: %w", ErrCorruptLog, act, err)
	default:
		return fmt.Errorf("%s: %w", act, err)
	}
}

// withRemedy ends an error by the remedy, if nothing but fresh data helps against it.
func (c *Config) withRemedy(err error) error {
	for _, final := range []error{ErrReplaced, ErrDiverged, ErrVotersGone, ErrCorruptLog} {
		if c.Remedy != "" && errors.Is(err, final) {
			return fmt.Errorf("%w; %s", err, c.Remedy)
		}
	}
	return err
}

// isFull reports whether there is no room, on the disk or within a quota.
func isFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// isDamage reports whether a library found wrong content, a record that ends early, or a
// file missing that another one names.
func isDamage(err error) bool {
	var syntax *json.SyntaxError
	var mismatch *json.UnmarshalTypeError
	if errors.As(err, &syntax) || errors.As(err, &mismatch) {
		return true
	}
	for _, damage := range []error{
		wal.ErrCorrupt, wal.ErrNotFound, raft.ErrLogNotFound,
		bolterrors.ErrInvalid, bolterrors.ErrChecksum, bolterrors.ErrVersionMismatch,
		io.EOF, io.ErrUnexpectedEOF, fs.ErrNotExist, errDecode, errPanic, errChecksum,
	} {
		if errors.Is(err, damage) {
			return true
		}
	}
	return err.Error() == "CRC mismatch" // raft's store of snapshots has no other sign
}

var (
	// errPanic: the log library panicked, as it does on some kinds of damage.
	errPanic = errors.New("the log library panicked")
	// errChecksum: what was read is not what was written.
	errChecksum = errors.New("snapshot has a wrong checksum")
)

// listSnapshots lists the snapshots, newest first. raft's store leaves out a snapshot
// whose description it cannot read. If the system was the reason, the state is not
// without that snapshot, so listSnapshots fails.
func (d *disk) listSnapshots() ([]*raft.SnapshotMeta, error) {
	list, err := d.snapshots.List()
	if err == nil {
		err = d.checkDescriptions()
	}
	if err != nil {
		return nil, diskError(err, "list snapshots")
	}
	return list, nil
}

// checkDescriptions reads the description of each snapshot and returns an error of the
// system.
func (d *disk) checkDescriptions() error {
	if d.dir == "" {
		return nil
	}
	dir := filepath.Join(d.dir, "snapshots")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		_, err := os.ReadFile(filepath.Join(dir, entry.Name(), "meta.json"))
		if err != nil && !errors.Is(err, fs.ErrNotExist) && entry.IsDir() {
			return err
		}
	}
	return nil
}
