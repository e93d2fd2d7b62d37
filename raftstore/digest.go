package raftstore

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"hash/crc32"
	"sort"
	"sync"
)

// digest is the hash of everything that a machine has applied. Each entry extends it by
// the hash of its bytes, by the verdicts and by what they changed. So two replicas that
// ever got, judged or stored something differently have different digests from then on,
// and nobody can make other entries that lead to the same digest. The text of a refusal
// is not part of it: it comes partly from libraries, and may differ between versions.
type digest [sha256.Size]byte

// digestVersion is the version of what a digest covers. Digests of different versions
// cannot be compared. Version 1 did not cover the bytes of the entries.
const digestVersion = 2

// String returns the beginning of the digest, for messages.
func (d digest) String() string { return hex.EncodeToString(d[:6]) }

// digestInput collects what an entry adds to a digest.
type digestInput struct{ b []byte }

// extend begins the input for the digest that follows d when entry is applied.
func (d digest) extend(entry []byte) digestInput {
	sum := sha256.Sum256(entry)
	return digestInput{append(append(make([]byte, 0, 512), d[:]...), sum[:]...)}
}

// addVerdict adds the verdict on the next txn of the entry.
func (in *digestInput) addVerdict(o *outcome) {
	in.b = binary.LittleEndian.AppendUint32(append(in.b, byte(o.kind)), o.ops)
	in.b = binary.LittleEndian.AppendUint64(in.b, o.revision)
}

// addChange adds a change of a record that is not packed yet. A checksum stands for its key and for its value:
// the hash of the entry withstands an attack, and this only shows a version that decodes
// or stores the entry otherwise.
func (in *digestInput) addChange(c *change) {
	in.b = binary.LittleEndian.AppendUint32(append(in.b, byte(c.typ)), crc32.Checksum([]byte(c.record.key), castagnoli))
	in.b = binary.LittleEndian.AppendUint32(in.b, crc32.Checksum(c.record.value.bytes, castagnoli))
	in.b = binary.LittleEndian.AppendUint64(in.b, c.record.createRevision)
	in.b = binary.LittleEndian.AppendUint64(in.b, c.record.modRevision)
}

func (in *digestInput) sum() digest { return sha256.Sum256(in.b) }

// digestWindow is how many digests a replica keeps: replicas that are up to date differ
// by a few entries.
const digestWindow = 4096

// digestLog holds the digests after the latest entries. The applying goroutine adds to
// it.
type digestLog struct {
	mu   sync.Mutex
	end  uint64          // what lies behind is not applied
	ring []indexedDigest // in the order of the index, from position next on
	next int
}

// indexedDigest is the digest of a machine that has applied the log up to index, and
// beyond it up to the next entry that holds txns.
type indexedDigest struct {
	index  uint64
	digest digest
}

// newDigestLog begins with the digest of an empty log.
func newDigestLog() *digestLog { return &digestLog{ring: make([]indexedDigest, 1)} }

// add adds the digest after the entry at index.
func (l *digestLog) add(index uint64, d digest) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.end = index
	if len(l.ring) < digestWindow {
		l.ring = append(l.ring, indexedDigest{index, d})
		return
	}
	l.ring[l.next] = indexedDigest{index, d}
	l.next = (l.next + 1) % digestWindow
}

// reset forgets all digests and begins with that of a snapshot.
func (l *digestLog) reset(index uint64, d digest) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ring, l.next, l.end = append(l.ring[:0], indexedDigest{index, d}), 0, index
}

// extend notes that the entries behind the last one, up to index, hold no txns.
func (l *digestLog) extend(index uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.end = max(l.end, index)
}

// applied returns the index up to which entries are applied.
func (l *digestLog) applied() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.end
}

// at returns the digest at index. ok is false if it is no longer kept, or the entry is not
// applied.
func (l *digestLog) at(index uint64) (d digest, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := len(l.ring)
	get := func(i int) indexedDigest { return l.ring[(l.next+i)%n] }
	i := sort.Search(n, func(i int) bool { return get(i).index > index })
	if i == 0 || index > l.end {
		return digest{}, false
	}
	return get(i - 1).digest, true
}
