package gossip

import (
	"encoding/binary"
	"fmt"
)

// Every message begins with its kind. Members ignore unknown kinds, so that a later
// version may add kinds.
const (
	kindRecord = 1 // one record, or a fragment of one; gossiped
	kindBatch  = 2 // many whole records; sent over a stream to one member
	kindState  = 3 // digest and the sender's own records; part of push-pull
)

const (
	// maxMessage is the size of a gossiped message that always fits into a packet
	// together with memberlist's framing, encryption and label.
	maxMessage = 1100
	// maxSection bounds an encoded section, in bytes.
	maxSection = 16 << 10
	// maxFragments follows from maxMessage, maxSection and the longest name.
	maxFragments = 32
	// maxVersion is far beyond any clock; a record with a higher version is malformed.
	maxVersion = 1 << 60
)

// record is one section of one member's facts at one version. raw is fragment index
// of count; a whole section has index 0 and count 1.
type record struct {
	name    string
	sec     section
	version uint64
	index   int
	count   int
	raw     []byte
}

// appendRecord appends the record. It extends to the end of the message, because raw
// has no length prefix.
func appendRecord(b []byte, r record) []byte {
	b = appendString(b, r.name)
	b = append(b, byte(r.sec))
	b = binary.AppendUvarint(b, r.version)
	b = append(b, byte(r.index), byte(r.count))
	return append(b, r.raw...)
}

// parseRecord is the reverse of appendRecord. The raw field of the record aliases b.
func parseRecord(b []byte) (record, error) {
	r := reader{b: b}
	rec := record{name: string(r.bytes())}
	rec.sec = section(r.byte())
	rec.version = r.uvarint()
	rec.index = int(r.byte())
	rec.count = int(r.byte())
	if r.err != nil {
		return record{}, r.err
	}
	rec.raw = r.b
	switch {
	case rec.name == "" || len(rec.name) > maxName,
		rec.version == 0 || rec.version > maxVersion,
		rec.count < 1 || rec.count > maxFragments || rec.index >= rec.count,
		len(rec.raw) > maxSection:
		return record{}, fmt.Errorf("record: %w", errMalformed)
	}
	return rec, nil
}

// splitRecord splits a whole record into messages that fit into packets.
func splitRecord(r record) [][]byte {
	room := maxMessage - len(appendRecord([]byte{kindRecord}, record{name: r.name, version: r.version}))
	count := max(1, (len(r.raw)+room-1)/room)
	msgs := make([][]byte, 0, count)
	for i := range count {
		part := r
		part.index, part.count = i, count
		part.raw = r.raw[i*room : min(len(r.raw), (i+1)*room)]
		msgs = append(msgs, appendRecord([]byte{kindRecord}, part))
	}
	return msgs
}

// appendBatch appends whole records, each with a length prefix, as long as the result
// has at most limit bytes. It returns how many it appended.
func appendBatch(b []byte, recs []record, limit int) ([]byte, int) {
	for i, r := range recs {
		next := appendBytes(b, appendRecord(nil, r))
		if len(next) > limit {
			return b, i
		}
		b = next
	}
	return b, len(recs)
}

// parseBatch is the reverse of appendBatch.
func parseBatch(b []byte) ([]record, error) {
	r := reader{b: b}
	var recs []record
	for len(r.b) > 0 && r.err == nil {
		body := r.bytes()
		if r.err != nil {
			break
		}
		rec, err := parseRecord(body)
		if err != nil {
			return nil, err
		}
		if rec.sec < sectionSlots {
			recs = append(recs, rec)
		}
	}
	return recs, r.err
}

// versions are the versions of a member's sections.
type versions [sectionSlots]uint64

// digest lists the versions of facts that a member has, by member name.
type digest struct {
	from    string
	entries map[string]versions
}

// sections returns how many sections the digest lists: those of this version, and those of
// later ones that some member has.
func (d digest) sections() int {
	n := int(sectionCount)
	for _, v := range d.entries {
		for i := n; i < len(v); i++ {
			if v[i] > 0 {
				n = i + 1
			}
		}
	}
	return n
}

// encodeState encodes one half of a push-pull: the digest, then records up to limit
// bytes.
func encodeState(d digest, recs []record, limit int) []byte {
	b := appendString([]byte{kindState}, d.from)
	sections := d.sections()
	b = append(b, byte(sections))
	b = binary.AppendUvarint(b, uint64(len(d.entries)))
	for name, v := range d.entries {
		b = appendString(b, name)
		for _, n := range v[:sections] {
			b = binary.AppendUvarint(b, n)
		}
	}
	b, _ = appendBatch(b, recs, max(limit, len(b)))
	return b
}

// parseState is the reverse of encodeState. b begins after the kind.
func parseState(b []byte) (digest, []record, error) {
	r := reader{b: b}
	d := digest{from: string(r.bytes())}
	sections := int(r.byte())
	n := r.uvarint()
	if n > uint64(len(r.b)) { // an entry is at least two bytes
		r.fail()
	}
	if r.err != nil {
		return digest{}, nil, r.err
	}
	d.entries = make(map[string]versions, n)
	for range n {
		name := string(r.bytes())
		var v versions
		for i := range sections {
			if ver := r.uvarint(); i < len(v) {
				v[i] = ver
			}
		}
		if r.err != nil {
			return digest{}, nil, r.err
		}
		d.entries[name] = v
	}
	recs, err := parseBatch(r.b)
	return d, recs, err
}
