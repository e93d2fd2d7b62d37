package gossip

import (
	"bytes"
	"errors"
	"reflect"
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
