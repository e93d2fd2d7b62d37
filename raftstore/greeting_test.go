package raftstore

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"
)

// TestNegotiation: both sides come to the same result and to the same words.
func TestNegotiation(t *testing.T) {
	old := greeting{protocol: protocolRange{1, 1}, levels: LevelRange{1, 1}, node: "old", version: "v1"}
	next := greeting{protocol: protocolRange{1, 2}, levels: LevelRange{1, 2}, node: "next", version: "v2"}
	later := greeting{protocol: protocolRange{2, 3}, levels: LevelRange{2, 3}, node: "later", version: "v3"}
	for _, tc := range []struct {
		name string
		a, b greeting
		use  uint8
		says string
	}{
		{"the same", old, old, 1, ""},
		{"an upgrade", old, next, 1, ""},
		{"the next upgrade", next, later, 2, ""},
		{"a version left out", old, later, 0, `host "later" (version "v3") speaks protocol 2 to 3 and host "old" (version "v1") only up to 1: install version "v3" or newer on the latter`},
	} {
		for _, pair := range [][2]greeting{{tc.a, tc.b}, {tc.b, tc.a}} {
			use, err := negotiate(pair[0], pair[1])
			if use != tc.use || (err == nil) != (tc.says == "") || err != nil && !strings.HasSuffix(err.Error(), tc.says) {
				t.Errorf("%s: %d, %v", tc.name, use, err)
			}
			if err != nil && !errors.Is(err, ErrFeatureLevel) {
				t.Errorf("%s: %v", tc.name, err)
			}
		}
	}
}

func TestCheckLevels(t *testing.T) {
	at := func(node string, lowest, highest, level uint32) greeting {
		return greeting{node: node, version: "of-" + node, levels: LevelRange{lowest, highest}, level: level}
	}
	for _, tc := range []struct {
		name string
		a, b greeting
		says string
	}{
		{"the same", at("a", 1, 1, 1), at("b", 1, 1, 1), ""},
		{"an upgrade", at("a", 1, 2, 1), at("b", 1, 1, 1), ""},
		{"one has not applied the raise yet", at("a", 1, 2, 2), at("b", 1, 2, 1), ""},
		{"one has not applied the raise yet, beside a version that needs it", at("a", 1, 2, 1), at("b", 2, 3, 2), ""},
		{"two that join", at("a", 1, 1, 0), at("b", 3, 3, 0), ""},
		{"one that joins", at("a", 2, 3, 0), at("b", 1, 2, 2), ""},
		{"too old", at("a", 1, 1, 0), at("b", 1, 2, 2), `this mesh is at feature level 2, says host "b" (version "of-b"), and host "a" (version "of-a") knows feature level 1: install version "of-b" or newer there`},
		{"too new", at("a", 2, 3, 0), at("b", 1, 2, 1), `knows feature levels 2 to 3: raise the level first, or install a version there that knows level 1`},
		{"after a downgrade", at("a", 1, 1, 1), at("b", 1, 2, 2), `host "a" (version "of-a") knows feature level 1: install version "of-b" or newer there`},
	} {
		for _, pair := range [][2]greeting{{tc.a, tc.b}, {tc.b, tc.a}} {
			err := checkLevels(pair[0], pair[1])
			if (err == nil) != (tc.says == "") || err != nil && (!strings.HasSuffix(err.Error(), tc.says) || !errors.Is(err, ErrFeatureLevel)) {
				t.Errorf("%s: %v", tc.name, err)
			}
			if errors.Is(err, ErrTooNew) != (tc.name == "too new") {
				t.Errorf("%s: too new: %v", tc.name, errors.Is(err, ErrTooNew))
			}
		}
	}
}

// TestLaterGreeting: what a later version appends to a greeting is skipped.
func TestLaterGreeting(t *testing.T) {
	g := greeting{protocol: protocolRange{1, 2}, levels: LevelRange{1, 7}, level: 3, group: incarnation{9}, node: "n", version: "v", target: "n/1"}
	b := slices.Concat(g.encode()[2:], []byte("and more"))
	got, err := decodeGreeting(b)
	if err != nil || got != g {
		t.Errorf("%+v became %+v, %v", g, got, err)
	}
}

func FuzzDecodeGreeting(f *testing.F) {
	f.Add([]byte{})
	f.Add(greeting{protocol: protocolRange{1, 2}, levels: LevelRange{1, 7}, level: 3, node: "n", version: "v", target: "n/1"}.encode()[2:])
	f.Fuzz(func(t *testing.T, b []byte) {
		g, err := decodeGreeting(b)
		if err != nil {
			return
		}
		again, err := decodeGreeting(g.encode()[2:])
		if err != nil || again != g {
			t.Fatalf("%+v became %+v, %v", g, again, err)
		}
		use, err := negotiate(g, greeting{protocol: protocolRange{lowestProtocol, highestProtocol}})
		if err == nil && (use < g.protocol.lowest || use > g.protocol.highest || use < lowestProtocol || use > highestProtocol) {
			t.Fatalf("negotiated %d with %+v", use, g)
		}
		_ = checkLevels(g, greeting{levels: KnownLevels(), level: BaseLevel})
	})
}

// TestFormatsFollowLevel: a format is written from its level on, and each is read.
func TestFormatsFollowLevel(t *testing.T) {
	f := formats{"log entry", []uint32{1, 3, 4}}
	for level, want := range map[uint32]uint8{1: 1, 2: 1, 3: 2, 4: 3, 9: 3} {
		if got := f.at(level); got != want {
			t.Errorf("level %d writes format %d, want %d", level, got, want)
		}
	}
	for number := range uint8(6) {
		err := f.check(number)
		if (err == nil) != (number >= 1 && number <= 3) {
			t.Errorf("format %d: %v", number, err)
		}
		if err != nil && (!errors.Is(err, ErrFeatureLevel) || errors.Is(err, ErrCorruptLog)) {
			t.Errorf("format %d: %v", number, err)
		}
	}
}

// TestLaterSnapshot: a snapshot of a format that this version cannot read is no damage,
// and the refusal says which version made it, if it is a backup.
func TestLaterSnapshot(t *testing.T) {
	tree := newTree()
	tree.Set(&stored{key: levelKey, value: packed{bytes: groupLevel{level: 7, version: "v7"}.encode()}})
	var b bytes.Buffer
	if err := (&snapshot{tree: tree, index: 1, revision: 9, madeBy: "v8"}).write(&b); err != nil {
		t.Fatal(err)
	}
	_, _, err := readSnapshot(bytes.NewReader(b.Bytes()), nil, LevelRange{1, 6})
	if !errors.Is(err, ErrFeatureLevel) || !strings.Contains(err.Error(), `feature level 7, and this version knows feature levels 1 to 6: install version "v8" or newer`) {
		t.Errorf("read at level 6: %v", err)
	}
	m, _, err := readSnapshot(bytes.NewReader(b.Bytes()), nil, LevelRange{1, 7})
	if err != nil || m.revision != 9 {
		t.Errorf("read at level 7: %v", err)
	}
	damaged := bytes.Clone(b.Bytes())
	damaged[len(snapshotMagic)+2] ^= 1 // the level
	if _, _, err := readSnapshot(bytes.NewReader(damaged), nil, LevelRange{1, 6}); !errors.Is(err, ErrCorruptLog) {
		t.Errorf("a damaged level: %v", err)
	}
}
