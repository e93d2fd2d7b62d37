package level

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"virtmesh/raftstore"
)

// The list names every level from the first to the highest that this version knows.
func TestEveryLevelIsListed(t *testing.T) {
	all := All()
	for i, l := range all {
		if l.Number != uint32(i+1) || l.Brings == "" || strings.HasSuffix(l.Brings, ".") {
			t.Errorf("entry %d is level %d, %q", i, l.Number, l.Brings)
		}
	}
	if last := all[len(all)-1].Number; last != Highest || Lowest < 1 || Lowest > Highest {
		t.Errorf("the list ends at %d, and this version knows %d to %d", last, Lowest, Highest)
	}
	if store := raftstore.KnownLevels(); store.Lowest > Lowest || store.Highest > Highest {
		t.Errorf("the store knows %s, and this version only %s", store, Known())
	}
	if got := Above(0); len(got) != len(all) {
		t.Errorf("above nothing are %v", got)
	}
	if got := Above(Highest); len(got) != 0 {
		t.Errorf("above the highest are %v", got)
	}
}

func TestLook(t *testing.T) {
	for _, test := range []struct {
		name   string
		mesh   uint32
		hosts  string // name:highest, "?" for a host that has not said
		want   string // reachable, newest
		heldUp string // who knows less, or is not heard
	}{
		{"no records yet", 2, "", "2 2", ""},
		{"all the same", 1, "a:1 b:1", "1 1", ""},
		{"all can", 1, "a:2 b:2", "2 2", ""},
		{"one cannot", 1, "b:2 c:1 a:2", "1 2", "c"},
		{"all can a little, one more", 1, "a:3 b:2", "2 3", "b"},
		{"one has not said", 1, "a:2 b:?", "1 2", "b"},
		{"one is below the mesh", 3, "a:3 b:2", "3 3", ""},
		{"one is not heard", 1, "a:2 b:2:dead", "2 2", "unheard b"},
		{"nothing to raise to", 2, "a:2 b:2:dead", "2 2", ""},
		{"one is old, another not heard", 1, "a:2 b:1 c:2:dead", "1 2", "b unheard c"},
		{"two hold it up", 1, "z:1 a:1 m:2", "1 2", "a z"},
	} {
		var hosts []Host
		for _, word := range strings.Fields(test.hosts) {
			var h Host
			parts := strings.Split(word, ":")
			h.Name, h.Live = parts[0], len(parts) == 2
			_, _ = fmt.Sscan(parts[1], &h.Highest)
			hosts = append(hosts, h)
		}
		o := Look(test.mesh, hosts)
		var names []string
		for _, h := range o.HeldUpBy {
			names = append(names, h.Name)
		}
		if len(o.Unheard) > 0 {
			names = append(append(names, "unheard"), o.Unheard...)
		}
		if got := fmt.Sprint(o.Reachable, " ", o.Newest); got != test.want || strings.Join(names, " ") != test.heldUp {
			t.Errorf("%s: %s held up by %v, want %s by %s", test.name, got, names, test.want, test.heldUp)
		}
	}
}

// A mesh is never raised past what one of its hosts knows, nor lowered; and where it cannot
// be raised to the newest level, somebody is named.
func TestLookNeverPassesAHost(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		mesh := rapid.Uint32Range(1, 5).Draw(t, "mesh")
		var hosts []Host
		for i := range rapid.IntRange(1, 6).Draw(t, "hosts") {
			hosts = append(hosts, Host{Name: fmt.Sprint("h", i), Highest: rapid.Uint32Range(0, 6).Draw(t, "highest")})
		}
		o := Look(mesh, hosts)
		if o.Reachable < mesh {
			t.Fatalf("a mesh at %d would go down to %d", mesh, o.Reachable)
		}
		for _, h := range hosts {
			if o.Reachable > mesh && h.Highest < o.Reachable {
				t.Fatalf("%s knows %d, and the mesh could be raised to %d", h.Name, h.Highest, o.Reachable)
			}
			named := slices.ContainsFunc(o.HeldUpBy, func(by Host) bool { return by.Name == h.Name })
			if named != (h.Highest < o.Newest && o.Newest > mesh) {
				t.Fatalf("%s knows %d of %d: named is %v", h.Name, h.Highest, o.Newest, named)
			}
		}
	})
}
