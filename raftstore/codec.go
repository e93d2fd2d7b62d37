package raftstore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
)

// entryHeader is the format, see entryFormats, the checksum, see entryChecksum, and the
// number of txns.
const entryHeader = 1 + 4 + 4

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

var errDecode = errors.New("malformed encoding")

// An encoded txn is called an envelope. It begins with the seq that the proposer's
// state machine had reached before the first attempt (see requestTable), in a
// fixed width so that it can be rewritten in place. The txn follows.
const envelopeHeader = 8

func appendString(b []byte, s string) []byte {
	b = binary.AppendUvarint(b, uint64(len(s)))
	return append(b, s...)
}

func appendBytes(b, s []byte) []byte {
	b = binary.AppendUvarint(b, uint64(len(s)))
	return append(b, s...)
}

// encodeTxn returns the envelope of t.
func encodeTxn(t *Txn, since uint64) []byte {
	size := envelopeHeader + 16 + len(t.RequestID)
	for i := range t.If {
		size += len(t.If[i].Key) + 2*binary.MaxVarintLen64
	}
	for i := range t.Ops {
		size += len(t.Ops[i].Key) + len(t.Ops[i].Value) + 2*binary.MaxVarintLen32 + 1
	}
	for i := range t.Constraints {
		size += len(t.Constraints[i].Name) + len(t.Constraints[i].Args) + 3*binary.MaxVarintLen32
	}
	b := binary.LittleEndian.AppendUint64(make([]byte, 0, size), since)
	b = appendString(b, t.RequestID)
	b = binary.AppendUvarint(b, uint64(len(t.If)))
	for i := range t.If {
		b = appendString(b, t.If[i].Key)
		b = binary.AppendUvarint(b, t.If[i].ModRevision)
	}
	b = binary.AppendUvarint(b, uint64(len(t.Constraints)))
	for i := range t.Constraints {
		b = appendString(b, t.Constraints[i].Name)
		b = binary.AppendUvarint(b, uint64(t.Constraints[i].Version))
		b = appendBytes(b, t.Constraints[i].Args)
	}
	b = binary.AppendUvarint(b, uint64(len(t.Ops)))
	for i := range t.Ops {
		op := &t.Ops[i]
		if op.Delete {
			b = append(b, 1)
			b = appendString(b, op.Key)
			continue
		}
		b = append(b, 0)
		b = appendString(b, op.Key)
		b = appendBytes(b, op.Value)
	}
	return b
}

// reader decodes what the append functions wrote. After the first error it
// returns zero values and keeps the error.
type reader struct {
	b   []byte
	err error
}

func (r *reader) fail() {
	if r.err == nil {
		r.err = errDecode
	}
	r.b = nil
}

func (r *reader) byte() byte {
	if len(r.b) < 1 {
		r.fail()
		return 0
	}
	v := r.b[0]
	r.b = r.b[1:]
	return v
}

func (r *reader) uint64() uint64 {
	if len(r.b) < 8 {
		r.fail()
		return 0
	}
	v := binary.LittleEndian.Uint64(r.b)
	r.b = r.b[8:]
	return v
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.fail()
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) uint32() uint32 {
	v := r.uvarint()
	if v > math.MaxUint32 {
		r.fail()
		return 0
	}
	return uint32(v)
}

// raw returns the next n bytes without copying them.
func (r *reader) raw(n int) []byte {
	if len(r.b) < n {
		r.fail()
		return nil
	}
	v := r.b[:n:n]
	r.b = r.b[n:]
	return v
}

// alias returns the next length-prefixed bytes without copying them.
func (r *reader) alias() []byte {
	n := r.uvarint()
	if n > uint64(len(r.b)) {
		r.fail()
		return nil
	}
	v := r.b[:n:n]
	r.b = r.b[n:]
	return v
}

func (r *reader) string() string { return string(r.alias()) }

// bytes returns a copy, so that a kept value does not keep the buffer of a whole
// batch alive.
func (r *reader) bytes() []byte { return append([]byte{}, r.alias()...) }

// count reads the length of a list whose items take at least one byte each.
func (r *reader) count(limit int) int {
	n := r.uvarint()
	if n > uint64(limit) || n > uint64(len(r.b)) {
		r.fail()
		return 0
	}
	return int(n)
}

// decodeTxn reads an envelope. Nothing in the txn aliases b.
func decodeTxn(b []byte) (t *Txn, since uint64, err error) {
	r := &reader{b: b}
	since = r.uint64()
	t = &Txn{RequestID: r.string()}
	if n := r.count(MaxTxnOps); n > 0 {
		t.If = make([]Condition, n)
		for i := range t.If {
			t.If[i] = Condition{Key: r.string(), ModRevision: r.uvarint()}
		}
	}
	t.Constraints = r.constraints()
	if n := r.count(MaxTxnOps); n > 0 {
		t.Ops = make([]Op, n)
		for i := range t.Ops {
			t.Ops[i] = r.op()
		}
	}
	if r.err == nil && len(r.b) != 0 {
		r.fail()
	}
	if r.err != nil {
		return nil, 0, fmt.Errorf("decode txn: %w", r.err)
	}
	return t, since, nil
}

func (r *reader) constraints() []ConstraintCall {
	n := r.count(MaxTxnOps)
	if n == 0 {
		return nil
	}
	calls := make([]ConstraintCall, n)
	for i := range calls {
		name, version, args := r.string(), r.uvarint(), r.bytes()
		if version > 1<<32-1 {
			r.fail()
		}
		calls[i] = ConstraintCall{Name: name, Version: uint32(version), Args: args}
	}
	return calls
}

func (r *reader) op() Op {
	switch r.byte() {
	case 0:
		return Op{Key: r.string(), Value: r.bytes()}
	case 1:
		return Op{Key: r.string(), Delete: true}
	default:
		r.fail()
		return Op{}
	}
}

// decodeCalls reads only the constraint calls of an envelope, for the leader's
// check before it proposes.
func decodeCalls(b []byte) ([]ConstraintCall, error) {
	r := &reader{b: b}
	r.uint64()
	r.alias()
	for range r.count(MaxTxnOps) {
		r.alias()
		r.uvarint()
	}
	calls := r.constraints()
	if r.err != nil {
		return nil, fmt.Errorf("decode constraint calls: %w", r.err)
	}
	return calls, nil
}

// encodeEntry packs envelopes into one log entry, in the format of a feature level.
func encodeEntry(level uint32, envelopes [][]byte) []byte {
	size := entryHeader
	for _, e := range envelopes {
		size += len(e) + binary.MaxVarintLen32
	}
	b := make([]byte, entryHeader, size)
	b[0] = entryFormats().at(level)
	binary.LittleEndian.PutUint32(b[5:], uint32(len(envelopes)))
	for _, e := range envelopes {
		b = appendBytes(b, e)
	}
	binary.LittleEndian.PutUint32(b[1:], entryChecksum(b))
	return b
}

// entryChecksum returns the checksum of an entry, which it holds behind its format. It
// covers what follows it, and in all formats but the first the format too, also in those
// that this version does not know.
func entryChecksum(b []byte) uint32 {
	if b[0] == 1 {
		return crc32.Checksum(b[5:], castagnoli)
	}
	return crc32.Update(crc32.Checksum(b[:1], castagnoli), castagnoli, b[5:])
}

// decodeEntry returns the envelopes of an entry; they alias b.
func decodeEntry(b []byte) ([][]byte, error) {
	if len(b) < entryHeader {
		return nil, fmt.Errorf("%w: entry of %d bytes", ErrCorruptLog, len(b))
	}
	// First, so that a damaged format is not taken for that of a later version.
	if entryChecksum(b) != binary.LittleEndian.Uint32(b[1:]) {
		return nil, fmt.Errorf("%w: entry of format %d has a wrong checksum", ErrCorruptLog, b[0])
	}
	if err := entryFormats().check(b[0]); err != nil {
		return nil, err
	}
	n := binary.LittleEndian.Uint32(b[5:])
	r := &reader{b: b[entryHeader:]}
	if uint64(n) > uint64(len(r.b)) {
		return nil, fmt.Errorf("%w: entry claims %d txns", ErrCorruptLog, n)
	}
	envelopes := make([][]byte, n)
	for i := range envelopes {
		envelopes[i] = r.alias()
	}
	if r.err != nil || len(r.b) != 0 {
		return nil, fmt.Errorf("%w: entry does not parse", ErrCorruptLog)
	}
	return envelopes, nil
}
