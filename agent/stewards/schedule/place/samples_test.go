package place

import (
	"hash/fnv"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// A policy that compares few hosts still finds the one that fits, and sends different
// instances to different hosts.
func TestSamples(t *testing.T) {
	policy := DefaultPolicy()
	policy.SampleHosts = 1
	const hosts = 20
	s := NewSnapshot()
	for i := range hosts {
		s.SetHost(host(string(rune('a' + i))))
	}
	seen := map[string]bool{}
	for i := range 200 {
		r := request(t, instance(string(rune('A'+i))), policy)
		name, err := s.Place(r)
		if err != nil {
			t.Fatal(err)
		}
		if again, _ := s.Place(r); again != name {
			t.Fatalf("placed on %s and on %s", name, again)
		}
		seen[name] = true
	}
	if len(seen) < hosts*3/4 {
		t.Errorf("200 instances sample %d of %d hosts", len(seen), hosts)
	}
	for i := range hosts - 1 {
		s.SetHost(host(string(rune('a'+i)), cordoned))
	}
	if got, err := s.Place(request(t, instance("new"), policy)); err != nil || got != string(rune('a'+hosts-1)) {
		t.Errorf("placed on %q, %v; only the last fits", got, err)
	}
	if names := hostNames(s); len(names) != hosts || !slices.IsSorted(names) {
		t.Errorf("hosts %v", names)
	}
}

func hostNames(s *Snapshot) []string {
	var names []string
	for _, h := range s.hosts {
		names = append(names, h.Name)
	}
	return names
}

// The better host is not missed among as many as the policy compares.
func TestAllOfTheSampleAreCompared(t *testing.T) {
	policy := DefaultPolicy()
	policy.SampleHosts = 10
	for _, best := range []string{"a", "e", "j"} {
		s := NewSnapshot()
		for i := range 10 {
			s.SetHost(host(string(rune('a' + i))))
		}
		s.SetHost(host(best, memory(64*gib)))
		if got, err := s.Place(request(t, instance("new"), policy)); got != best {
			t.Errorf("placed on %q, %v; want %s", got, err, best)
		}
	}
}

// Hosts with equal scores are chosen in turn, by every host of the mesh alike: the
// hashes are the published ones.
func TestHashes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.String().Draw(t, "text")
		h := fnv.New64a()
		_, _ = h.Write([]byte(text))
		if got := hashString(text); got != h.Sum64() {
			t.Errorf("%q hashes to %x, want %x", text, got, h.Sum64())
		}
	})
	if got := mix(0x9e3779b97f4a7c15); got != 0xe220a8397b1dcdaf { // the first number of splitmix64
		t.Errorf("mixed to %x", got)
	}
	seen := map[string]bool{}
	for i := range 50 {
		s := snapshot(host("a"), host("b"), host("c"))
		seen[placedOn(t, s, instance(string(rune('A'+i))))] = true
	}
	if len(seen) != 3 {
		t.Errorf("of three equal hosts %v are chosen", seen)
	}
}
