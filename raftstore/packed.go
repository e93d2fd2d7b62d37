package raftstore

import (
	"fmt"
	"strings"

	"github.com/klauspost/compress/s2"
)

// Values of one directory look alike: ten thousand machines differ by their names and a
// few numbers. So the records in memory hold what distinguishes a value from a model,
// another value of its directory. That takes a microsecond to make and a quarter of one
// to read, and a tenth of the memory. It is the business of this process alone: logs,
// snapshots, digests and peers have the values as they are.
const (
	// leastPacked is the smallest value that is worth it.
	leastPacked = 128
	// maxModels bounds the directories with a model.
	maxModels = 64
	// maxModel bounds a model. One that fits badly gets longer up to this.
	maxModel = 16 << 10
	// relearnAfter is how many values are packed by a model before it may be replaced. A
	// replaced model stays for as long as records need it, so it must have been of use.
	relearnAfter = 1024
	// After giveUpAfter values in a row that were not worth it, the next ones are kept as
	// they are without a try, twice as many each time, up to longestRest: some values, such
	// as encrypted ones, resemble nothing.
	giveUpAfter = 64
	longestRest = 4096
)

// packed is a value as it is kept in memory.
type packed struct {
	bytes []byte
	model *s2.Dict // nil if bytes are the value itself
}

// value returns the value. If it is kept as it is, the bytes are shared.
func (p packed) value() []byte {
	if p.model == nil {
		return p.bytes
	}
	return p.read(nil)
}

// read unpacks a value that is packed, into buf if that has room for it.
func (p packed) read(buf []byte) []byte {
	v, err := p.model.Decode(buf, p.bytes)
	if err != nil {
		panic(fmt.Sprintf("raftstore: a value in memory cannot be read any more: %v", err))
	}
	return v
}

// size returns the length of the value.
func (p packed) size() int {
	if p.model == nil {
		return len(p.bytes)
	}
	n, err := s2.DecodedLen(p.bytes)
	if err != nil {
		panic(fmt.Sprintf("raftstore: a value in memory cannot be read any more: %v", err))
	}
	return n
}

// packer packs values. It is used by one goroutine.
type packer struct {
	models  map[string]*valueModel // by directory
	scratch []byte
}

// valueModel is what the values of a directory are compared with.
type valueModel struct {
	text []byte
	dict *s2.Dict
	// packed and misfits count the values since the model was made, and those of them
	// that it does not fit.
	packed, misfits int
	// failed counts the last values in a row that were not worth it. skip is how many of
	// the coming ones are not tried, rest how many they were after the last try.
	failed, skip, rest int
}

func newPacker() *packer { return &packer{models: map[string]*valueModel{}} }

// directory returns the part of a key that names what kind of value it has: up to three
// words, but not the last one.
func directory(key string) string {
	end := 0
	for range 4 {
		i := strings.IndexByte(key[end:], '/')
		if i < 0 {
			break
		}
		end += i + 1
	}
	return key[:end]
}

// pack returns the packed form of a value, which may share its bytes.
func (p *packer) pack(key string, value []byte) packed {
	if len(value) < leastPacked || len(value) > s2.MaxDictSize {
		return packed{bytes: value}
	}
	dir := directory(key)
	m := p.models[dir]
	if m == nil {
		if len(p.models) >= maxModels {
			return packed{bytes: value}
		}
		m = &valueModel{}
		m.learn(value)
		p.models[strings.Clone(dir)] = m
	}
	if m.skip > 0 {
		m.skip--
		m.packed, m.misfits = m.packed+1, m.misfits+1
		return packed{bytes: value}
	}
	if n := s2.MaxEncodedLen(len(value)); cap(p.scratch) < n {
		p.scratch = make([]byte, n)
	}
	by := m.dict
	p.scratch = by.Encode(p.scratch[:cap(p.scratch)], value)
	m.count(value, len(p.scratch))
	if len(p.scratch) > len(value)*3/4 {
		m.noteFailure()
		return packed{bytes: value}
	}
	m.failed, m.rest = 0, 0
	return packed{bytes: append(make([]byte, 0, len(p.scratch)), p.scratch...), model: by}
}

// learn makes a model that knows the value besides the last of what it knew before.
func (m *valueModel) learn(value []byte) {
	text := append(append([]byte{}, m.text...), value...)
	if len(text) > maxModel {
		text = text[len(text)-maxModel:]
	}
	*m = valueModel{text: text, dict: s2.MakeDict(text, nil), rest: m.rest}
}

// noteFailure notes that a value was not worth it, and begins a rest after many in a row.
func (m *valueModel) noteFailure() {
	if m.failed++; m.failed >= giveUpAfter {
		m.rest = min(max(2*m.rest, giveUpAfter), longestRest)
		m.skip = m.rest
	}
}

// count notes how well the model fitted a value, and replaces it if it often does not.
func (m *valueModel) count(value []byte, size int) {
	m.packed++
	if size > len(value)/4 {
		m.misfits++
	}
	// The first misfits teach a model what else there is in the directory.
	early := m.misfits > 0 && len(m.text)+len(value) <= maxModel
	late := m.packed >= relearnAfter && m.misfits > m.packed/4
	if (early || late) && size > len(value)/4 {
		m.learn(value)
	}
}
