package raftstore

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"

	"github.com/hashicorp/raft"
)

// A snapshot consists of snapshotMagic, the number of its format, an origin, the digest,
// the remembered requests, the records and a checksum of everything before it. The origin
// is a length, the feature level, a version that knows it, and behind them a checksum. It is the same in every format, and later versions may append to it what
// earlier ones skip. So a version that cannot read the format can say who made it. Each
// list is preceded by its length. Fixed-width integers are little endian, all others are
// uvarint.
const (
	snapshotMagic   = "vmrsnaps"
	maxOrigin       = 4 << 10
	snapshotMaxItem = 256 << 20 // no string in a snapshot is longer
)

// snapshot is the state at one log index. It shares the tree with the machine
// (copy-on-write).
type snapshot struct {
	tree     *tree
	index    uint64
	revision uint64
	seq      uint64
	requests []remembered
	digest   digest
	// madeBy names the version that made a backup. It is empty in a snapshot, whose origin
	// names the version that raised the level.
	madeBy string
}

var _ raft.FSMSnapshot = (*snapshot)(nil)

// snapshot returns the state of m, which has applied the log up to index.
func (m *machine) snapshot(index uint64) *snapshot {
	return &snapshot{
		tree: m.tree.Copy(), index: index, revision: m.revision,
		seq: m.requests.seq, requests: m.requests.oldestFirst(), digest: m.digest,
	}
}

// Persist implements raft.FSMSnapshot.
func (s *snapshot) Persist(sink raft.SnapshotSink) error {
	if err := s.write(sink); err != nil {
		return errors.Join(fmt.Errorf("write snapshot: %w", err), sink.Cancel())
	}
	return sink.Close()
}

// Release implements raft.FSMSnapshot.
func (s *snapshot) Release() {}

// write writes the whole snapshot.
func (s *snapshot) write(to io.Writer) error {
	level, err := levelOf(s.tree)
	if err != nil {
		return err
	}
	made := s.madeBy
	if made == "" {
		made = level.version
	}
	sum := crc32.New(castagnoli)
	w := &snapshotWriter{w: bufio.NewWriterSize(io.MultiWriter(to, sum), 256<<10)}
	w.raw([]byte(snapshotMagic))
	w.raw([]byte{snapshotFormats().at(level.level)})
	w.string(string(appendString(binary.AppendUvarint(nil, uint64(level.level)), made)))
	w.checksum(sum)
	w.uvarint(s.index)
	w.uvarint(s.revision)
	w.uvarint(s.seq)
	w.raw(s.digest[:])
	w.uvarint(uint64(len(s.requests)))
	for i := range s.requests {
		r := &s.requests[i]
		w.string(r.id)
		w.uvarint(uint64(r.sum))
		w.uvarint(uint64(r.kind))
		w.uvarint(uint64(r.ops))
		w.uvarint(r.revision)
		w.string(r.reason)
	}
	w.uvarint(uint64(s.tree.Len()))
	s.tree.Scan(func(r *stored) bool {
		value := r.value.value()
		w.string(r.key)
		w.uvarint(r.createRevision)
		w.uvarint(r.modRevision)
		w.uvarint(uint64(len(value)))
		w.raw(value)
		return w.err == nil
	})
	w.checksum(sum)
	if w.err == nil {
		w.err = w.w.Flush()
	}
	return w.err
}

type snapshotWriter struct {
	w   *bufio.Writer
	tmp [binary.MaxVarintLen64]byte
	err error
}

func (w *snapshotWriter) raw(b []byte) {
	if w.err == nil {
		_, w.err = w.w.Write(b)
	}
}

func (w *snapshotWriter) uvarint(v uint64) {
	w.raw(w.tmp[:binary.PutUvarint(w.tmp[:], v)])
}

// checksum writes the checksum of everything before it.
func (w *snapshotWriter) checksum(sum hash.Hash32) {
	if w.err == nil {
		w.err = w.w.Flush()
	}
	w.raw(binary.LittleEndian.AppendUint32(nil, sum.Sum32()))
}

func (w *snapshotWriter) string(s string) {
	w.uvarint(uint64(len(s)))
	if w.err == nil {
		_, w.err = w.w.WriteString(s)
	}
}

// readOrigin reads a snapshot up to the end of its origin, and returns an error if this
// version cannot read the rest.
func (r *snapshotReader) readOrigin(levels LevelRange) error {
	if magic := r.raw(uint64(len(snapshotMagic))); r.err == nil && string(magic) != snapshotMagic {
		return fmt.Errorf("%w: this is no snapshot: it begins with %q", ErrCorruptLog, magic)
	}
	format := r.raw(1)
	n := r.uvarint()
	if n > maxOrigin {
		r.fail(errDecode)
	}
	origin := &reader{b: r.raw(n)}
	made := groupLevel{level: origin.uint32(), version: origin.string()}
	if err := errors.Join(r.verify(), origin.err); err != nil {
		return diskError(err, "read snapshot")
	}
	if err := made.checkKnown(levels); err != nil {
		return err
	}
	return snapshotFormats().check(format[0])
}

// readSnapshot builds a machine from a snapshot and returns the log index at which
// the snapshot was taken.
func readSnapshot(from io.Reader, constraints constraintSet, levels LevelRange) (*machine, uint64, error) {
	r := &snapshotReader{r: bufio.NewReaderSize(from, 256<<10), sum: crc32.New(castagnoli)}
	if err := r.readOrigin(levels); err != nil {
		return nil, 0, err
	}
	index := r.uvarint()
	m := newMachine(constraints, levels)
	m.revision = r.uvarint()
	seq := r.uvarint()
	copy(m.digest[:], r.raw(uint64(len(m.digest))))
	n := r.uvarint()
	if n > maxRequests || n > seq {
		r.fail(errDecode)
		n = 0
	}
	requests := make([]remembered, 0, n)
	for range n {
		requests = append(requests, remembered{
			id: string(r.bytes()), sum: uint32(r.uvarint()), kind: outcomeKind(r.uvarint()),
			ops: uint32(r.uvarint()), revision: r.uvarint(), reason: string(r.bytes()),
		})
	}
	n = r.uvarint()
	for ; n > 0 && r.err == nil; n-- {
		rec := &stored{key: string(r.bytes()), createRevision: r.uvarint(), modRevision: r.uvarint()}
		rec.value = m.packer.pack(rec.key, r.bytes())
		m.tree.Set(rec)
		m.bytes += recordBytes(rec)
	}
	if err := r.verify(); err != nil {
		return nil, 0, diskError(err, "read snapshot")
	}
	if _, err := levelOf(m.tree); err != nil {
		return nil, 0, diskError(err, "read snapshot")
	}
	m.requests = restoreRequests(seq, requests)
	return m, index, nil
}

// snapshotReader reads what snapshotWriter wrote and computes its checksum. After
// the first error it returns zero values and keeps the error.
type snapshotReader struct {
	r   *bufio.Reader
	sum hash.Hash32
	one [1]byte
	err error
}

var _ io.ByteReader = (*snapshotReader)(nil)

func (r *snapshotReader) fail(err error) {
	if r.err == nil {
		r.err = err
	}
}

// ReadByte implements io.ByteReader.
func (r *snapshotReader) ReadByte() (byte, error) {
	b, err := r.r.ReadByte()
	if err == nil {
		r.one[0] = b
		r.sum.Write(r.one[:])
	} else {
		r.fail(err)
	}
	return b, err
}

func (r *snapshotReader) uvarint() uint64 {
	if r.err != nil {
		return 0
	}
	v, err := binary.ReadUvarint(r)
	if err != nil {
		r.fail(errDecode) // unless ReadByte has failed
		return 0
	}
	return v
}

func (r *snapshotReader) raw(n uint64) []byte {
	if n > snapshotMaxItem {
		r.fail(errDecode)
	}
	if r.err != nil {
		return nil
	}
	// Read in chunks, so that a damaged length cannot cause a huge allocation.
	var b []byte
	for chunk := uint64(1 << 20); n > 0; n -= chunk {
		chunk = min(chunk, n)
		at := uint64(len(b))
		b = append(b, make([]byte, chunk)...)
		if _, err := io.ReadFull(r.r, b[at:]); err != nil {
			r.fail(err)
			return nil
		}
	}
	r.sum.Write(b)
	return b
}

func (r *snapshotReader) bytes() []byte { return r.raw(r.uvarint()) }

// verify reads the checksum of everything before it and compares it.
func (r *snapshotReader) verify() error {
	want := r.sum.Sum32()
	sum := r.raw(4)
	if r.err != nil {
		return fmt.Errorf("snapshot is truncated or damaged: %w", r.err)
	}
	if binary.LittleEndian.Uint32(sum) != want {
		return errChecksum
	}
	return nil
}
