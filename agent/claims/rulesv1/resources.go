package rulesv1

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"virtmesh/raftstore"
)

// resources is an amount of what hosts have and instances need.
type resources struct {
	CPUMilli       int64            `json:"cpuMilli"`
	MemoryBytes    int64            `json:"memoryBytes"`
	EphemeralBytes int64            `json:"ephemeralBytes"`
	Hugepages      map[string]int64 `json:"hugepages"`
	Devices        map[string]int64 `json:"devices"`
}

// add adds o, which has no negative amounts. A sum that no number can hold stays the
// greatest number, which no host has.
func (r *resources) add(o resources) {
	r.CPUMilli = sum(r.CPUMilli, o.CPUMilli)
	r.MemoryBytes = sum(r.MemoryBytes, o.MemoryBytes)
	r.EphemeralBytes = sum(r.EphemeralBytes, o.EphemeralBytes)
	r.Hugepages = sums(r.Hugepages, o.Hugepages)
	r.Devices = sums(r.Devices, o.Devices)
}

func sum(a, b int64) int64 {
	if a > math.MaxInt64-b {
		return math.MaxInt64
	}
	return a + b
}

func sums(into, add map[string]int64) map[string]int64 {
	if into == nil && len(add) > 0 {
		into = make(map[string]int64, len(add))
	}
	for k, n := range add {
		into[k] = sum(into[k], n)
	}
	return into
}

// lacking returns the names of the resources of which want exceeds r, in a fixed order.
func (r resources) lacking(want resources) []string {
	var out []string
	if want.CPUMilli > r.CPUMilli {
		out = append(out, "cpu")
	}
	if want.MemoryBytes > r.MemoryBytes {
		out = append(out, "memory")
	}
	if want.EphemeralBytes > r.EphemeralBytes {
		out = append(out, "ephemeral-storage")
	}
	out = append(out, lackingOf("hugepages-", r.Hugepages, want.Hugepages)...)
	return append(out, lackingOf("", r.Devices, want.Devices)...)
}

func lackingOf(prefix string, have, want map[string]int64) (out []string) {
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if want[name] > have[name] {
			out = append(out, prefix+name)
		}
	}
	return out
}

const (
	hugepagesWord = "hugepages:"
	deviceWord    = "device:"
)

// decodeEntry reads the resources of an entry, the claim of an instance on one host:
//
//	<namespace>/<name> epoch=<n> cpu=<milli> memory=<bytes> [ephemeral=<bytes>] [hugepages:<size>=<bytes>] [device:<name>=<n>]
//
// It refuses every word that it does not know: ignoring a resource would let it be
// claimed twice.
func decodeEntry(rec raftstore.Record) (resources, error) {
	var r resources
	first, rest, _ := strings.Cut(string(rec.Value), " ")
	if !strings.Contains(first, "/") {
		return r, fmt.Errorf("decode %s: no namespace and name in %q", rec.Key, first)
	}
	for rest != "" {
		var word string
		word, rest, _ = strings.Cut(rest, " ")
		if err := r.setWord(word); err != nil {
			return r, fmt.Errorf("decode %s: %w", rec.Key, err)
		}
	}
	return r, nil
}

func (r *resources) setWord(word string) error {
	key, value, _ := strings.Cut(word, "=")
	n, err := strconv.ParseInt(value, 10, 64)
	if err != nil || n < 0 {
		return fmt.Errorf("%q is not a word and a number", word)
	}
	switch {
	case key == "epoch":
	case key == "cpu":
		r.CPUMilli = n
	case key == "memory":
		r.MemoryBytes = n
	case key == "ephemeral":
		r.EphemeralBytes = n
	case strings.HasPrefix(key, hugepagesWord):
		r.Hugepages = with(r.Hugepages, strings.TrimPrefix(key, hugepagesWord), n)
	case strings.HasPrefix(key, deviceWord):
		r.Devices = with(r.Devices, strings.TrimPrefix(key, deviceWord), n)
	default:
		return fmt.Errorf("unknown word %q", word)
	}
	return nil
}

func with(m map[string]int64, key string, n int64) map[string]int64 {
	if m == nil {
		m = map[string]int64{}
	}
	m[key] = n
	return m
}
