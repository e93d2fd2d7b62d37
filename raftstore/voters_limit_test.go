package raftstore

import (
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// A limit takes votes away only where others can take them, and never the majority.
func TestChooseVotersWithinALimit(t *testing.T) {
	for _, tc := range []struct{ name, group, nodes, want string }{
		{"the named ones", "a:z:lh b:z:vh c:z:vh d:z:h e:z:h", "a d e", "a d e"},
		{"the leader goes, too", "a:z:lh b:z:vh c:z:vh d:z:h e:z:h", "c d e", "c d e"},
		{"no zone is worth a breach", "a:1:lh b:2:vh c:3:vh d:1:h e:1:h", "a d e", "a d e"},
		{"fewer than the policy asks for", "a:z:lh b:z:vh c:z:vh d:z:vh e:z:vh", "a b c", "a b c"},
		{"an even number", "a:z:lh b:z:vh c:z:vh d:z:vh e:z:vh", "a b c d", "a b c"},
		{"one", "a:z:lh b:z:vh c:z:vh", "b", "b"},
		{"one that is named is not there yet", "a:z:lh b:z:vh c:z:vh d:z:h", "a d x", "a b d"},
		{"one that is named is unwell: its vote is kept for it", "a:z:lh b:z:v c:z:vh d:z:vh", "a b c", "a b c"},
		{"one that is named cannot vote yet", "a:z:lh b:z:vh c:z:vh d:z: e:z:h", "a d e", "a b e"},
		{"without the others there would be no majority", "a:z:lh b:z:v c:z:v d:z:vh e:z:vh", "a b c", "a b d"},
		{"a dead voter is not replaced by one that may not vote", "a:z:lh b:z:vh c:z:v d:z:h", "a b c", "a b c"},
		{"one that is named was removed: two would be worse than one", "a:z:lh b:z:vh d:z:h e:z:h", "a b c", "a"},
		{"one that is named was removed, of five", "a:z:lh b:z:vh c:z:vh d:z:vh f:z:h", "a b c d e", "a b c"},
		{"two that are named are there, and none that may not vote has a place", "a:z:lh b:z:h d:z:h", "a b c", "a"},
		{"nobody that is named is there", "a:z:lh b:z:vh c:z:v d:z:h e:z:h", "x y", "a b c"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			limit := VoterLimit{Nodes: strings.Fields(tc.nodes)}
			list := parseCandidates(tc.group)
			for i, c := range list {
				list[i].barred = !limit.Allows(c.id)
			}
			if got := strings.Join(chooseVoters(list, limit, 5), " "); got != tc.want {
				t.Errorf("chose %q, want %q", got, tc.want)
			}
		})
	}
}

func TestVoterLimitAllows(t *testing.T) {
	for _, tc := range []struct {
		limit VoterLimit
		want  string
	}{
		{VoterLimit{}, "a b c"},
		{VoterLimit{Nodes: []string{"a", "b"}}, "a b"},
		{VoterLimit{Exclude: []string{"a"}}, "b c"},
		{VoterLimit{Nodes: []string{"a", "b"}, Exclude: []string{"b"}}, "a"},
	} {
		var got []string
		for _, node := range []string{"a", "b", "c"} {
			if tc.limit.Allows(node) {
				got = append(got, node)
			}
		}
		if strings.Join(got, " ") != tc.want {
			t.Errorf("%+v allows %q, want %q", tc.limit, got, tc.want)
		}
	}
}

// Whatever the limit: nobody gets a vote who may not have one, healthy voters that were a
// majority stay one, the choice settles, and in the end it follows the limit where it can.
func TestLimitsNeverCostTheMajority(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		list := make([]candidate, rapid.IntRange(1, 9).Draw(t, "n"))
		limit := rapid.SampledFrom([]int{1, 3, 5, 7}).Draw(t, "limit")
		var l VoterLimit
		for i := range list {
			id := string(rune('a' + i))
			list[i] = candidate{
				id: id, zone: rapid.SampledFrom([]string{"1", "2"}).Draw(t, "zone"),
				healthy: i == 0 || rapid.Bool().Draw(t, "healthy"), voter: i == 0 || rapid.Bool().Draw(t, "voter"), leader: i == 0,
			}
			switch rapid.IntRange(0, 2).Draw(t, "named") {
			case 0:
				l.Exclude = append(l.Exclude, id)
			case 1:
				l.Nodes = append(l.Nodes, id)
			}
		}
		for i, c := range list {
			list[i].barred = !l.Allows(c.id)
		}
		if len(l.Nodes) > 0 {
			l.Nodes = append(l.Nodes, rapid.SampledFrom([][]string{nil, {"x"}, {"x", "y"}}).Draw(t, "absent")...)
		}
		wasMajority := hasMajority(list)
		chosen := chooseVoters(list, l, limit)
		served := 0 // places that a healthy replica takes that may vote
		for i := range list {
			c := &list[i]
			if !c.voter && c.barred && slices.Contains(chosen, c.id) {
				t.Fatalf("chose %s, which may not vote: %v of %+v", c.id, chosen, list)
			}
			if c.healthy && !c.barred {
				served++
			}
			c.voter = slices.Contains(chosen, c.id)
		}
		if len(chosen) == 0 || wasMajority && !hasMajority(list) {
			t.Fatalf("chose %v of %+v: no majority is healthy", chosen, list)
		}
		if again := chooseVoters(list, l, limit); !slices.Equal(chosen, again) {
			t.Fatalf("chose %v, then %v", chosen, again)
		}
		for _, c := range list {
			if served >= len(chosen) && served > 0 && c.voter && c.barred {
				t.Fatalf("%s keeps its vote although others can take it: %v of %+v", c.id, chosen, list)
			}
		}
	})
}

// hasMajority reports whether the healthy voters are a majority of the voters.
func hasMajority(list []candidate) bool {
	voters, healthy := 0, 0
	for _, c := range list {
		if c.voter {
			voters++
			if c.healthy {
				healthy++
			}
		}
	}
	return 2*healthy > voters
}
