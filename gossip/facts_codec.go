package gossip

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
)

// Facts are split into two sections that change at different rates, so that a new
// load figure does not carry all labels again. The package comment has the rules by which
// a section is read.

// section numbers a part of the facts that has its own version.
type section uint8

const (
	sectionLoad section = iota // Free, Pools, Load, Unschedulable, Idle
	sectionHost                // everything else
	sectionCount
)

// sectionSlots is how many sections a member keeps and relays. Those from sectionCount on
// come from later versions; what they say is not read here.
const sectionSlots = 8

const (
	tagMeshAddr      = 1
	tagZone          = 2
	tagVersion       = 3
	tagFeatureLevel  = 4
	tagAllocatable   = 5
	tagFree          = 6
	tagPools         = 7
	tagLoad          = 8
	tagKVM           = 9
	tagCPUModels     = 10
	tagImages        = 11
	tagLabels        = 12
	tagUnschedulable = 13
	tagIdle          = 14
	tagLowestLevel   = 15
	tagKeys          = 16
	tagTrust         = 17
	tagSignedBy      = 18
)

// errMalformed is returned by every decoder of this package for bytes that no
// encoder could have written.
var errMalformed = errors.New("malformed gossip message")

// encodeSection encodes one section. Equal facts give equal bytes.
func encodeSection(s section, f *Facts) []byte {
	var w fieldWriter
	switch s {
	case sectionLoad:
		w.resources(tagFree, f.Free)
		w.pools(tagPools, f.Pools)
		if f.Load != 0 {
			w.field(tagLoad, binary.BigEndian.AppendUint32(nil, math.Float32bits(float32(f.Load))))
		}
		w.flag(tagUnschedulable, f.Unschedulable)
		w.flag(tagIdle, f.Idle)
	case sectionHost:
		w.str(tagMeshAddr, f.MeshAddr)
		w.str(tagZone, f.Zone)
		w.str(tagVersion, f.Version)
		if f.FeatureLevel != 0 {
			w.field(tagFeatureLevel, binary.AppendVarint(nil, int64(f.FeatureLevel)))
		}
		if f.LowestFeatureLevel != 0 {
			w.field(tagLowestLevel, binary.AppendVarint(nil, int64(f.LowestFeatureLevel)))
		}
		w.resources(tagAllocatable, f.Allocatable)
		w.flag(tagKVM, f.KVM)
		w.list(tagCPUModels, f.CPUModels)
		w.list(tagImages, f.Images)
		w.labels(tagLabels, f.Labels)
		w.str(tagKeys, f.Keys)
		w.str(tagTrust, f.Trust)
		w.str(tagSignedBy, f.SignedBy)
	}
	return w.buf
}

// decodeSection merges the fields of a section into f.
func decodeSection(b []byte, f *Facts) error {
	r := reader{b: b}
	var seen tagSet
	for len(r.b) > 0 && r.err == nil {
		tag := r.uvarint()
		v := reader{b: r.bytes()}
		if r.err != nil {
			break
		}
		if !seen.add(tag) {
			return fmt.Errorf("field %d is there twice: %w", tag, errMalformed)
		}
		decodeField(tag, &v, f)
		if v.err != nil {
			return fmt.Errorf("field %d: %w", tag, v.err)
		}
	}
	return r.err
}

// tagSet is a set of tags. Only tags of later versions need more than its first word.
type tagSet struct {
	low  uint64
	high map[uint64]struct{}
}

// add adds a tag, and reports whether it is new.
func (s *tagSet) add(tag uint64) bool {
	if tag < 64 {
		known := s.low&(1<<tag) != 0
		s.low |= 1 << tag
		return !known
	}
	if s.high == nil {
		s.high = map[uint64]struct{}{}
	}
	_, known := s.high[tag]
	s.high[tag] = struct{}{}
	return !known
}

func decodeField(tag uint64, v *reader, f *Facts) {
	switch tag {
	case tagMeshAddr:
		f.MeshAddr = string(v.b)
	case tagZone:
		f.Zone = string(v.b)
	case tagVersion:
		f.Version = string(v.b)
	case tagFeatureLevel:
		f.FeatureLevel = int(v.varint())
	case tagLowestLevel:
		f.LowestFeatureLevel = int(v.varint())
	case tagAllocatable:
		f.Allocatable = v.resources()
	case tagFree:
		f.Free = v.resources()
	case tagPools:
		f.Pools = v.pools()
	case tagLoad:
		if len(v.b) != 4 {
			v.err = errMalformed
			return
		}
		f.Load = float64(math.Float32frombits(binary.BigEndian.Uint32(v.b)))
	case tagKVM:
		f.KVM = true
	case tagCPUModels:
		f.CPUModels = v.list()
	case tagImages:
		f.Images = v.list()
	case tagLabels:
		f.Labels = v.labels()
	case tagUnschedulable:
		f.Unschedulable = true
	case tagIdle:
		f.Idle = true
	case tagKeys:
		f.Keys = string(v.b)
	case tagTrust:
		f.Trust = string(v.b)
	case tagSignedBy:
		f.SignedBy = string(v.b)
	}
}

// fieldWriter appends fields and leaves out those that hold a zero value.
type fieldWriter struct{ buf []byte }

func (w *fieldWriter) field(tag uint64, v []byte) {
	w.buf = binary.AppendUvarint(w.buf, tag)
	w.buf = appendBytes(w.buf, v)
}

func (w *fieldWriter) str(tag uint64, s string) {
	if s != "" {
		w.field(tag, []byte(s))
	}
}

func (w *fieldWriter) flag(tag uint64, on bool) {
	if on {
		w.field(tag, nil)
	}
}

func (w *fieldWriter) list(tag uint64, l []string) {
	if len(l) == 0 {
		return
	}
	var v []byte
	for _, s := range l {
		v = appendString(v, s)
	}
	w.field(tag, v)
}

func (w *fieldWriter) labels(tag uint64, m map[string]string) {
	if len(m) == 0 {
		return
	}
	var v []byte
	for _, k := range slices.Sorted(maps.Keys(m)) {
		v = appendString(appendString(v, k), m[k])
	}
	w.field(tag, v)
}

func (w *fieldWriter) pools(tag uint64, m map[string]Pool) {
	if len(m) == 0 {
		return
	}
	var v []byte
	for _, k := range slices.Sorted(maps.Keys(m)) {
		v = appendString(v, k)
		v = binary.AppendVarint(v, m[k].Capacity)
		v = binary.AppendVarint(v, m[k].Free)
	}
	w.field(tag, v)
}

func (w *fieldWriter) resources(tag uint64, r Resources) {
	if r.CPUMilli == 0 && r.MemoryBytes == 0 && len(r.Hugepages) == 0 && len(r.Devices) == 0 {
		return
	}
	v := binary.AppendVarint(nil, r.CPUMilli)
	v = binary.AppendVarint(v, r.MemoryBytes)
	for _, m := range []map[string]int64{r.Hugepages, r.Devices} {
		v = binary.AppendUvarint(v, uint64(len(m)))
		for _, k := range slices.Sorted(maps.Keys(m)) {
			v = binary.AppendVarint(appendString(v, k), m[k])
		}
	}
	w.field(tag, v)
}

func appendBytes(b, v []byte) []byte {
	return append(binary.AppendUvarint(b, uint64(len(v))), v...)
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// reader decodes bytes from the front. After the first error it returns zero values,
// so that a sequence of reads needs only one check of err.
type reader struct {
	b   []byte
	err error
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	return advance(r, v, n)
}

func (r *reader) varint() int64 {
	v, n := binary.Varint(r.b)
	return advance(r, v, n)
}

func advance[T any](r *reader, v T, n int) T {
	if r.err != nil || n <= 0 {
		r.fail()
		var zero T
		return zero
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) byte() byte {
	if r.err != nil || len(r.b) == 0 {
		r.fail()
		return 0
	}
	v := r.b[0]
	r.b = r.b[1:]
	return v
}

// bytes returns a length-prefixed slice of the input, not a copy.
func (r *reader) bytes() []byte {
	n := r.uvarint()
	if r.err != nil || n > uint64(len(r.b)) {
		r.fail()
		return nil
	}
	v := r.b[:n:n]
	r.b = r.b[n:]
	return v
}

func (r *reader) fail() {
	if r.err == nil {
		r.err = errMalformed
	}
	r.b = nil
}

func (r *reader) list() []string {
	var l []string
	for len(r.b) > 0 {
		if s := r.bytes(); r.err == nil {
			l = append(l, string(s))
		}
	}
	return l
}

func (r *reader) labels() map[string]string {
	m := make(map[string]string)
	for len(r.b) > 0 {
		if k, v := r.bytes(), r.bytes(); r.err == nil {
			m[string(k)] = string(v)
		}
	}
	return m
}

func (r *reader) pools() map[string]Pool {
	m := make(map[string]Pool)
	for len(r.b) > 0 {
		if k, p := r.bytes(), (Pool{Capacity: r.varint(), Free: r.varint()}); r.err == nil {
			m[string(k)] = p
		}
	}
	return m
}

func (r *reader) resources() Resources {
	res := Resources{CPUMilli: r.varint(), MemoryBytes: r.varint()}
	res.Hugepages = r.counts()
	res.Devices = r.counts()
	return res
}

func (r *reader) counts() map[string]int64 {
	n := r.uvarint()
	if n == 0 || n > uint64(len(r.b)) { // an entry is at least two bytes
		if n > 0 {
			r.fail()
		}
		return nil
	}
	m := make(map[string]int64, n)
	for range n {
		if k, v := r.bytes(), r.varint(); r.err == nil {
			m[string(k)] = v
		}
	}
	return m
}
