package gossip

import (
	"slices"
	"time"
)

const (
	// maxMembers bounds the members whose facts are kept.
	maxMembers = 16384
	// orphanAge is how long facts of a name that is no member are kept. Facts of a
	// joining member may arrive before the message that it joins.
	orphanAge = 2 * time.Minute
)

// factStore keeps the newest facts of every member. It decodes facts only when they
// are read, because most of them are replaced unread. It is not safe for concurrent
// use.
type factStore struct {
	entries map[string]*factEntry
	bytes   int // total size of the complete sections
}

type factEntry struct {
	secs    [sectionSlots]stored
	partial [sectionSlots]*assembly
	decoded *Facts
	at      time.Time
}

type stored struct {
	version uint64
	raw     []byte
}

// assembly collects the fragments of a section.
type assembly struct {
	version uint64
	parts   [][]byte
	missing int
}

func newFactStore() *factStore {
	return &factStore{entries: make(map[string]*factEntry)}
}

// outcome says what applying a record did.
type outcome uint8

const (
	stale    outcome = iota // nothing: the record is known, older or unusable
	fragment                // added a fragment to a section that is still incomplete
	applied                 // replaced a section by a newer one
)

// applyRecord stores a record if it is newer than the known one. It keeps rec.raw.
func (s *factStore) applyRecord(now time.Time, rec record) outcome {
	if rec.sec >= sectionSlots {
		return stale
	}
	e := s.entries[rec.name]
	if e == nil {
		if len(s.entries) >= maxMembers {
			return stale
		}
		e = &factEntry{at: now}
		s.entries[rec.name] = e
	}
	if rec.version <= e.secs[rec.sec].version {
		return stale
	}
	if rec.count > 1 {
		whole, fresh := e.assemble(rec)
		if whole == nil {
			if fresh {
				return fragment
			}
			return stale
		}
		rec.raw = whole
	}
	if err := decodeSection(rec.raw, new(Facts)); err != nil {
		return stale
	}
	s.bytes += len(rec.raw) - len(e.secs[rec.sec].raw)
	e.secs[rec.sec] = stored{rec.version, rec.raw}
	e.partial[rec.sec] = nil
	e.decoded, e.at = nil, now
	return applied
}

// assemble adds a fragment and returns the whole section once it is complete.
func (e *factEntry) assemble(rec record) (whole []byte, fresh bool) {
	a := e.partial[rec.sec]
	if a == nil || a.version < rec.version || (a.version == rec.version && len(a.parts) != rec.count) {
		a = &assembly{rec.version, make([][]byte, rec.count), rec.count}
		e.partial[rec.sec] = a
	}
	if a.version > rec.version || a.parts[rec.index] != nil {
		return nil, false
	}
	a.parts[rec.index] = append([]byte{}, rec.raw...)
	a.missing--
	if a.missing > 0 {
		return nil, true
	}
	whole = slices.Concat(a.parts...)
	if len(whole) > maxSection {
		return nil, false
	}
	return whole, true
}

// facts returns the decoded facts of a member, or nil if there are none.
func (s *factStore) facts(name string) *Facts {
	e := s.entries[name]
	if e == nil || (s.versions(name) == versions{}) {
		return nil
	}
	if e.decoded == nil {
		f := new(Facts)
		for _, sec := range e.secs[:sectionCount] {
			// applyRecord has decoded every section once, so this cannot fail.
			_ = decodeSection(sec.raw, f)
		}
		e.decoded = f
	}
	return e.decoded
}

// versions returns the known versions of a member's sections.
func (s *factStore) versions(name string) versions {
	var v versions
	if e := s.entries[name]; e != nil {
		for i := range e.secs {
			v[i] = e.secs[i].version
		}
	}
	return v
}

// appendNewer appends the records of a member that have a higher version than v.
func (s *factStore) appendNewer(recs []record, name string, v versions) []record {
	e := s.entries[name]
	if e == nil {
		return recs
	}
	for i, sec := range e.secs {
		if sec.version > v[i] {
			recs = append(recs, record{name: name, sec: section(i), version: sec.version, count: 1, raw: sec.raw})
		}
	}
	return recs
}

func (s *factStore) remove(name string) {
	if e := s.entries[name]; e != nil {
		for _, sec := range e.secs {
			s.bytes -= len(sec.raw)
		}
		delete(s.entries, name)
	}
}

// removeOrphans drops old facts of names that are no members.
func (s *factStore) removeOrphans(now time.Time, isMember func(string) bool) {
	for name, e := range s.entries {
		if now.Sub(e.at) > orphanAge && !isMember(name) {
			s.remove(name)
		}
	}
}
