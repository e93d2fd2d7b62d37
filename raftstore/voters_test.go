package raftstore

import (
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// parseCandidates reads "id:zone:flags", flags being l(eader), v(oter), h(ealthy).
func parseCandidates(s string) []candidate {
	var list []candidate
	for i, f := range strings.Fields(s) {
		p := strings.Split(f, ":")
		list = append(list, candidate{
			id: p[0], zone: p[1], leader: strings.Contains(p[2], "l"), voter: strings.ContainsAny(p[2], "lv"),
			healthy: strings.Contains(p[2], "h"), since: time.Unix(int64(i), 0),
		})
	}
	return list
}

func TestChooseVoters(t *testing.T) {
	for _, tc := range []struct{ name, group, want string }{
		{"one host", "a:z:lh", "a"},
		{"two hosts, one votes", "a:z:lh b:z:h", "a"},
		{"three hosts", "a:z:lh b:z:h c:z:h", "a b c"},
		{"four hosts keep three", "a:z:lvh b:z:vh c:z:vh d:z:h", "a b c"},
		{"five hosts", "a:z:lh b:z:vh c:z:vh d:z:h e:z:h", "a b c d e"},
		{"zones are spread", "a:1:lh b:1:vh c:2:vh d:3:h", "a c d"},
		{"no better spread, no change", "a:1:lh b:1:vh c:2:vh d:1:h", "a b c"},
		{"dead voter is replaced", "a:z:lh b:z:v c:z:vh d:z:h", "a c d"},
		{"dead voter without replacement stays", "a:z:lh b:z:v c:z:vh", "a b c"},
		{"new replica that is unwell does not vote", "a:z:lh b:z: c:z:h", "a c"},
		{"leader stays even if it seems unwell", "a:z:l b:z:vh c:z:vh d:z:h", "a b c"},
		{"stable for longest first", "a:z:lh d:z:h c:z:h b:z:h", "a c d"},
		{"limit", "a:1:lh b:2:h c:3:h d:4:h e:5:h f:6:h g:7:h", "a b c d e"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := strings.Join(chooseVoters(parseCandidates(tc.group), VoterLimit{}, 5), " ")
			if got != tc.want {
				t.Errorf("chose %q, want %q", got, tc.want)
			}
		})
	}
}

func TestChooseVotersSettles(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 12).Draw(t, "n")
		limit := rapid.SampledFrom([]int{1, 3, 5, 7}).Draw(t, "limit")
		list := make([]candidate, n)
		for i := range list {
			list[i] = candidate{
				id:   string(rune('a' + i)),
				zone: rapid.SampledFrom([]string{"1", "2", "3"}).Draw(t, "zone"),
				// The leader always votes and is well: otherwise it would not lead.
				healthy: i == 0 || rapid.Bool().Draw(t, "healthy"),
				voter:   i == 0 || rapid.Bool().Draw(t, "voter"),
				leader:  i == 0,
			}
		}
		chosen := chooseVoters(list, VoterLimit{}, limit)
		if !slices.Contains(chosen, "a") || len(chosen) > wantVoters(n, limit) {
			t.Fatalf("chose %v of %+v", chosen, list)
		}
		for i := range list {
			c := &list[i]
			c.voter = slices.Contains(chosen, c.id)
		}
		if again := chooseVoters(list, VoterLimit{}, limit); !slices.Equal(chosen, again) {
			t.Fatalf("chose %v, then %v", chosen, again)
		}
	})
}
