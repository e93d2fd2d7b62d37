package gossip

import (
	"bytes"
	"errors"
	"reflect"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func genResources(t *rapid.T, label string) Resources {
	counts := rapid.MapOfN(rapid.StringN(1, 20, 40), rapid.Int64(), 1, 4)
	r := Resources{
		CPUMilli:    rapid.Int64().Draw(t, label+".cpu"),
		MemoryBytes: rapid.Int64().Draw(t, label+".memory"),
	}
	if rapid.Bool().Draw(t, label+".more") {
		r.Hugepages = counts.Draw(t, label+".hugepages")
		r.Devices = counts.Draw(t, label+".devices")
	}
	return r
}

func genFacts(t *rapid.T) Facts {
	str := rapid.StringN(0, 30, 60)
	list := rapid.SliceOfN(str, 1, 20)
	f := Facts{
		MeshAddr: str.Draw(t, "mesh"), Zone: str.Draw(t, "zone"), Version: str.Draw(t, "version"),
		FeatureLevel: rapid.Int().Draw(t, "level"), LowestFeatureLevel: rapid.Int().Draw(t, "lowest"), KVM: rapid.Bool().Draw(t, "kvm"),
		Allocatable: genResources(t, "allocatable"), Free: genResources(t, "free"),
		Load:          float64(rapid.Float32().Draw(t, "load")),
		Unschedulable: rapid.Bool().Draw(t, "unschedulable"),
		Idle:          rapid.Bool().Draw(t, "idle"),
		Keys:          str.Draw(t, "keys"),
		Trust:         str.Draw(t, "trust"), SignedBy: str.Draw(t, "signed by"),
	}
	if rapid.Bool().Draw(t, "more") {
		f.CPUModels, f.Images = list.Draw(t, "models"), list.Draw(t, "images")
		f.Labels = rapid.MapOfN(str, str, 1, 10).Draw(t, "labels")
		f.Pools = rapid.MapOfN(str, rapid.Custom(func(t *rapid.T) Pool {
			return Pool{rapid.Int64().Draw(t, "capacity"), rapid.Int64().Draw(t, "free")}
		}), 1, 5).Draw(t, "pools")
	}
	return f
}

func TestFactsSurviveEncoding(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := genFacts(t)
		var got Facts
		for s := range sectionCount {
			b := encodeSection(s, &want)
			if !bytes.Equal(b, encodeSection(s, &want)) {
				t.Fatal("equal facts gave different bytes")
			}
			if err := decodeSection(b, &got); err != nil {
				t.Fatal(err)
			}
		}
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("got  %+v\nwant %+v", got, want)
		}
	})
}

func TestUnknownFieldsAreSkipped(t *testing.T) {
	w := fieldWriter{}
	w.str(200, "from a later version")
	w.str(tagZone, "z")
	var f Facts
	if err := decodeSection(w.buf, &f); err != nil || f.Zone != "z" {
		t.Errorf("got %+v, %v", f, err)
	}
}

// fieldsOf splits a section into its encoded fields.
func fieldsOf(t interface{ Fatal(...any) }, b []byte) (tags []uint64, fields [][]byte) {
	for r := (reader{b: b}); len(r.b) > 0; {
		rest := r.b
		tag := r.uvarint()
		r.bytes()
		if r.err != nil {
			t.Fatal("a section that was read does not consist of fields")
		}
		tags, fields = append(tags, tag), append(fields, rest[:len(rest)-len(r.b)])
	}
	return tags, fields
}

// A field that is there twice has no meaning: its section is refused, and the one before it
// stays. So all versions read the same, whatever they know of the tag.
func TestATagIsThereOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		facts, s := genFacts(t), section(rapid.IntRange(0, int(sectionCount)-1).Draw(t, "section"))
		w := fieldWriter{buf: encodeSection(s, &facts)}
		w.str(rapid.Uint64Range(tagSignedBy+1, 1<<40).Draw(t, "tag of a later version"), "later")
		_, fields := fieldsOf(t, w.buf)
		twice := slices.Concat(fields, [][]byte{rapid.SampledFrom(fields).Draw(t, "twice")})
		store := newFactStore()
		if got := store.applyRecord(time.Time{}, record{name: "a", sec: s, version: 1, count: 1, raw: w.buf}); got != applied {
			t.Fatalf("the section itself: %v", got)
		}
		raw := slices.Concat(rapid.Permutation(twice).Draw(t, "order")...)
		if err := decodeSection(raw, new(Facts)); !errors.Is(err, errMalformed) {
			t.Fatalf("a field twice: %v", err)
		}
		if got := store.applyRecord(time.Time{}, record{name: "a", sec: s, version: 2, count: 1, raw: raw}); got != stale || store.versions("a")[s] != 1 {
			t.Fatalf("a field twice: %v, version %d", got, store.versions("a")[s])
		}
	})
}

// What a later version says in a section of its own is relayed and not read, even if it
// should look like a field that this version knows.
func TestLaterSectionsAreNotRead(t *testing.T) {
	s := newFactStore()
	for sec, zone := range map[section]string{sectionHost: "z", sectionSlots - 1: "of a later version"} {
		var w fieldWriter
		w.str(tagZone, zone)
		if got := s.applyRecord(time.Time{}, record{name: "a", sec: sec, version: 1, count: 1, raw: w.buf}); got != applied {
			t.Fatalf("section %d: %v", sec, got)
		}
	}
	if f := s.facts("a"); f.Zone != "z" {
		t.Errorf("zone %q", f.Zone)
	}
	if recs := s.appendNewer(nil, "a", versions{}); len(recs) != 2 {
		t.Errorf("%d sections are relayed", len(recs))
	}
}

// FuzzDecodeSection holds the rules of reading against any bytes: no tag twice, no meaning
// of the order, and unknown fields change nothing.
func FuzzDecodeSection(f *testing.F) {
	facts := Facts{MeshAddr: "a:1", Zone: "z", FeatureLevel: 2, LowestFeatureLevel: 1, Labels: map[string]string{"k": "v"}, Load: 1}
	for s := range sectionCount {
		b := encodeSection(s, &facts)
		f.Add(b)
		f.Add(slices.Concat(b, b))
		f.Add(append(b, 0xc8, 0x01, 0))
		f.Add(append(b, 0xc8, 0x01, 0, 0xc8, 0x01, 0))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var read, turned Facts
		if err := decodeSection(b, &read); err != nil {
			if !errors.Is(err, errMalformed) {
				t.Fatalf("error of another kind: %v", err)
			}
			return
		}
		tags, fields := fieldsOf(t, b)
		if known := slices.Compact(slices.Sorted(slices.Values(tags))); len(known) != len(tags) {
			t.Fatalf("a tag is there twice in %v", tags)
		}
		slices.Reverse(fields)
		fields = append(fields, []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01, 0})
		if slices.Contains(tags, 1<<64-1) {
			fields = fields[:len(fields)-1]
		}
		if err := decodeSection(slices.Concat(fields...), &turned); err != nil || !bytes.Equal(encodeAll(&read), encodeAll(&turned)) {
			t.Fatalf("%+v in another order, with an unknown field, is %+v, %v", read, turned, err)
		}
	})
}

// encodeAll returns all sections of f. Unlike f itself, it can be compared if the load is
// not a number.
func encodeAll(f *Facts) (b []byte) {
	for s := range sectionCount {
		b = append(b, encodeSection(s, f)...)
	}
	return b
}

func TestSectionsComeTogetherInAnyOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		raw := rapid.SliceOfN(rapid.Byte(), 0, 9000).Draw(t, "raw")
		w := fieldWriter{}
		w.field(200, raw)
		name := rapid.StringN(1, 60, maxName).Draw(t, "name")
		rec := record{name: name, sec: sectionHost, version: 7, count: 1, raw: w.buf}
		msgs := splitRecord(rec)
		s := newFactStore()
		var last outcome
		for _, i := range rapid.Permutation(indices(len(msgs))).Draw(t, "order") {
			if len(msgs[i]) > maxMessage {
				t.Fatalf("message of %d bytes", len(msgs[i]))
			}
			part, err := parseRecord(msgs[i][1:])
			if err != nil {
				t.Fatal(err)
			}
			last = s.applyRecord(time.Time{}, part)
			if again := s.applyRecord(time.Time{}, part); again != stale {
				t.Fatalf("the same message again: %v", again)
			}
		}
		if last != applied || !bytes.Equal(s.entries[name].secs[sectionHost].raw, w.buf) {
			t.Fatalf("outcome %v", last)
		}
		if s.bytes != len(w.buf) {
			t.Fatalf("counts %d bytes", s.bytes)
		}
	})
}

func indices(n int) []int {
	l := make([]int, n)
	for i := range l {
		l[i] = i
	}
	return l
}

func TestNewestVersionWins(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := newFactStore()
		var newest uint64
		for _, v := range rapid.SliceOfN(rapid.Uint64Range(1, 20), 1, 20).Draw(t, "versions") {
			w := fieldWriter{}
			w.field(tagFeatureLevel, []byte{byte(v)})
			got := s.applyRecord(time.Time{}, record{name: "a", sec: sectionHost, version: v, count: 1, raw: w.buf})
			if (got == applied) != (v > newest) {
				t.Fatalf("version %d after %d: %v", v, newest, got)
			}
			newest = max(newest, v)
		}
		if got := s.versions("a")[sectionHost]; got != newest {
			t.Fatalf("version %d, want %d", got, newest)
		}
		if recs := s.appendNewer(nil, "a", versions{0, newest}); len(recs) != 0 {
			t.Fatalf("%d records are newer than the newest", len(recs))
		}
		s.remove("a")
		if s.bytes != 0 {
			t.Fatalf("%d bytes left", s.bytes)
		}
	})
}

func TestStateSurvivesEncoding(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.StringN(1, 20, 80)
		version := rapid.Uint64Range(1, maxVersion)
		want := digest{
			from: name.Draw(t, "from"),
			entries: rapid.MapOf(name, rapid.Custom(func(t *rapid.T) versions {
				v := versions{version.Draw(t, "load"), version.Draw(t, "host")}
				if rapid.Bool().Draw(t, "later") {
					v[rapid.IntRange(2, sectionSlots-1).Draw(t, "slot")] = version.Draw(t, "section of a later version")
				}
				return v
			})).Draw(t, "entries"),
		}
		recs := rapid.SliceOf(rapid.Custom(func(t *rapid.T) record {
			return record{name: name.Draw(t, "name"), sec: sectionLoad, version: version.Draw(t, "v"),
				count: 1, raw: rapid.SliceOfN(rapid.Byte(), 1, 50).Draw(t, "raw")}
		})).Draw(t, "records")
		got, gotRecs, err := parseState(encodeState(want, recs, 1<<20)[1:])
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, want) || len(gotRecs) != len(recs) {
			t.Fatalf("got %+v %+v", got, gotRecs)
		}
		for i := range recs {
			if !reflect.DeepEqual(gotRecs[i], recs[i]) {
				t.Fatalf("record %d: %+v, want %+v", i, gotRecs[i], recs[i])
			}
		}
	})
}

func TestBatchIsBounded(t *testing.T) {
	rec := record{name: "a", version: 1, count: 1, raw: make([]byte, 100)}
	b, n := appendBatch(nil, []record{rec, rec, rec}, 250)
	if n != 2 || len(b) > 250 {
		t.Errorf("took %d records in %d bytes", n, len(b))
	}
}

func TestMetaSurvivesEncoding(t *testing.T) {
	for _, want := range []nodeMeta{{}, {"10.0.0.1:7443", 2, 3}, {"[::1]:1", 0, -1}} {
		if got := decodeMeta(want.encode()); got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
	}
	later := nodeMeta{"10.0.0.1:7443", 1, 2}.encode()
	w := fieldWriter{buf: later}
	w.str(200, "from a later version")
	if got := decodeMeta(w.buf); got != (nodeMeta{"10.0.0.1:7443", 1, 2}) {
		t.Errorf("with a field of a later version: %+v", got)
	}
	for _, b := range [][]byte{nil, {99}, {metaVersion}, {metaVersion, 0x80}} {
		if got := decodeMeta(b); got != (nodeMeta{}) {
			t.Errorf("%v: got %+v, want nothing", b, got)
		}
	}
}

func FuzzReceive(f *testing.F) {
	facts := Facts{MeshAddr: "a:1", Labels: map[string]string{"k": "v"}, Free: Resources{CPUMilli: 1}}
	rec := record{name: "b", sec: sectionHost, version: 3, count: 1, raw: encodeSection(sectionHost, &facts)}
	f.Add(splitRecord(rec)[0])
	b, _ := appendBatch([]byte{kindBatch}, []record{rec}, 1000)
	f.Add(b)
	f.Add(encodeState(digest{"b", map[string]versions{"b": {1, 2}}}, []record{rec}, 1000))
	f.Fuzz(func(t *testing.T, msg []byte) {
		if len(msg) == 0 {
			return
		}
		s := newFactStore()
		take := func(recs []record, err error) {
			if err != nil && !errors.Is(err, errMalformed) {
				t.Fatalf("error of another kind: %v", err)
			}
			for _, r := range recs {
				s.applyRecord(time.Time{}, r)
				s.facts(r.name)
			}
		}
		r, err := parseRecord(msg[1:])
		take([]record{r}, err)
		take(parseBatch(msg[1:]))
		_, recs, err := parseState(msg[1:])
		take(recs, err)
		var facts Facts
		_ = decodeSection(msg, &facts)
	})
}

func FuzzPacketTap(f *testing.F) {
	f.Add([]byte{wireSuspect, 0x81, 0xa4, 'N', 'o', 'd', 'e', 0xa1, 'x'})
	f.Add([]byte{wireCompound, 1, 0, 2, wireDead, 0x80})
	f.Add([]byte{wireLabel, 1, 'x', wireChecksum, 0, 0, 0, 0, wireCompound, 2, 0, 1, 0, 1, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, keys := range [][][]byte{nil, {make([]byte, 16)}} {
			tp := tap{
				keys:  func() [][]byte { return keys },
				wants: func(byte) bool { return true },
				heard: func(kind byte, r rumour) {
					if r.Node == "" {
						t.Fatal("a rumour of nobody")
					}
				},
			}
			tp.readPacket(b)
		}
	})
}
