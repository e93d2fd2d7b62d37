package raftstore

import (
	"strings"
	"testing"

	"github.com/hashicorp/raft"
)

func command(index, term uint64) *raft.Log {
	return &raft.Log{Index: index, Term: term, Type: raft.LogCommand, Data: encodeEntry(BaseLevel, nil)}
}

// TestHostileAnswers: what a source sends is checked before the local Raft sees it, since
// Raft panics or halts on some of it.
func TestHostileAnswers(t *testing.T) {
	damaged := command(6, 2)
	damaged.Data[2] ^= 1
	for name, c := range map[string]struct {
		answer pullAnswer
		ok     bool
	}{
		"entries":                    {pullAnswer{Commit: 7, PrevTerm: 1, entries: []*raft.Log{command(6, 2), command(7, 2)}}, true},
		"nothing new":                {pullAnswer{Commit: 5, PrevTerm: 1}, true},
		"a gap":                      {pullAnswer{Commit: 8, entries: []*raft.Log{command(6, 2), command(8, 2)}}, false},
		"an old entry":               {pullAnswer{Commit: 8, entries: []*raft.Log{command(5, 2)}}, false},
		"terms that fall":            {pullAnswer{Commit: 7, entries: []*raft.Log{command(6, 3), command(7, 2)}}, false},
		"a term before the last":     {pullAnswer{Commit: 7, PrevTerm: 3, entries: []*raft.Log{command(6, 2)}}, false},
		"a term that leaves no room": {pullAnswer{Commit: 6, entries: []*raft.Log{command(6, 1<<63)}}, false},
		"a leader of such a term":    {pullAnswer{Commit: 5, Leader: feedLeader{Term: 1 << 60}}, false},
		"entries not committed":      {pullAnswer{Commit: 6, entries: []*raft.Log{command(6, 2), command(7, 2)}}, false},
		"a damaged entry":            {pullAnswer{Commit: 6, entries: []*raft.Log{damaged}}, false},
		"a configuration that does not decode": {pullAnswer{Commit: 6, entries: []*raft.Log{
			{Index: 6, Term: 2, Type: raft.LogConfiguration, Data: []byte("\xc1garbage")}}}, false},
		"an empty configuration": {pullAnswer{Commit: 6, entries: []*raft.Log{
			{Index: 6, Term: 2, Type: raft.LogConfiguration, Data: raft.EncodeConfiguration(raft.Configuration{})}}}, false},
		"a type of long ago": {pullAnswer{Commit: 6, entries: []*raft.Log{{Index: 6, Term: 2, Type: raft.LogAddPeerDeprecated}}}, false},
		"a snapshot":         {pullAnswer{Commit: 9, Snapshot: &snapshotOffer{Index: 8, Size: 100, Term: 2}}, true},
		"an old snapshot":    {pullAnswer{Commit: 9, Snapshot: &snapshotOffer{Index: 4, Size: 100, Term: 2}}, false},
		"an empty snapshot":  {pullAnswer{Commit: 9, Snapshot: &snapshotOffer{Index: 8, Term: 2}}, false},
		"a long path":        {pullAnswer{Path: strings.Split(strings.Repeat("x,", 100), ",")}, false},
	} {
		b, err := c.answer.encode()
		if err != nil {
			t.Fatal(err)
		}
		a, err := decodePullAnswer(b, 5)
		if ok := err == nil; ok != c.ok {
			t.Errorf("%s: %v", name, err)
		}
		if err == nil && len(a.entries) != len(c.answer.entries) {
			t.Errorf("%s: %d entries of %d arrive", name, len(a.entries), len(c.answer.entries))
		}
	}
}

func FuzzPullAnswer(f *testing.F) {
	for _, a := range []pullAnswer{
		{Commit: 7, PrevTerm: 1, Path: []string{"host1"}, entries: []*raft.Log{command(6, 2), command(7, 2)}},
		{Refused: "full", Offers: []offer{{Node: "host2", Addr: "host2:7000"}}},
		{Commit: 9, Snapshot: &snapshotOffer{Index: 8, Size: 100, Term: 2}},
	} {
		b, err := a.encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := decodePullAnswer(b, 5)
		if err != nil {
			return
		}
		for i, l := range a.entries {
			if l.Index != 6+uint64(i) || l.Index > a.Commit || l.Term > maxTerm {
				t.Errorf("entry %d of term %d after 5, committed up to %d", l.Index, l.Term, a.Commit)
			}
		}
	})
}

func FuzzPullRequest(f *testing.F) {
	b, err := encodePull(pullRequest{ID: "host4/1", Addr: "host4:7000", After: 3, Report: []reportLine{{ID: "host5/1"}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		if q, err := decodePullRequest(b); err == nil && (nodeOf(raft.ServerID(q.ID)) == "" || q.Addr == "") {
			t.Errorf("a request without a sender: %+v", q)
		}
	})
}
