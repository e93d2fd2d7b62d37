package claims

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	machine "virtmesh/agent/vmi"
	"virtmesh/raftstore"
)

// Entry is the claim of an instance on one host.
//
// It is the only record that is not JSON: for every claim on a host, every replica
// reads all entries of the host, and decoding JSON would limit the write rate of the
// mesh. Its text consists of words separated by single spaces:
//
//	<namespace>/<name> epoch=<n> cpu=<milli> memory=<bytes> [ephemeral=<bytes>] [hugepages:<size>=<bytes>] [device:<name>=<n>]
type Entry struct {
	Namespace string
	Name      string
	Epoch     uint64
	Resources machine.Resources
}

const (
	hugepagesWord = "hugepages:"
	deviceWord    = "device:"
)

// encodeText returns the text of the entry.
func (e Entry) encodeText() []byte {
	var b strings.Builder
	fmt.Fprintf(&b, "%s/%s epoch=%d cpu=%d memory=%d", e.Namespace, e.Name, e.Epoch, e.Resources.CPUMilli, e.Resources.MemoryBytes)
	if n := e.Resources.EphemeralBytes; n != 0 {
		fmt.Fprintf(&b, " ephemeral=%d", n)
	}
	for _, size := range slices.Sorted(maps.Keys(e.Resources.Hugepages)) {
		fmt.Fprintf(&b, " %s%s=%d", hugepagesWord, size, e.Resources.Hugepages[size])
	}
	for _, name := range slices.Sorted(maps.Keys(e.Resources.Devices)) {
		fmt.Fprintf(&b, " %s%s=%d", deviceWord, name, e.Resources.Devices[name])
	}
	return []byte(b.String())
}

// decodeEntry parses the text of an entry. It refuses every word that it does not know:
// ignoring a resource would let it be claimed twice.
func decodeEntry(rec raftstore.Record) (Entry, error) {
	var e Entry
	first, rest, _ := strings.Cut(string(rec.Value), " ")
	ns, name, ok := strings.Cut(first, "/")
	if !ok {
		return e, fmt.Errorf("decode %s: no namespace and name in %q", rec.Key, first)
	}
	e.Namespace, e.Name = ns, name
	for rest != "" {
		var word string
		word, rest, _ = strings.Cut(rest, " ")
		if err := e.setWord(word); err != nil {
			return e, fmt.Errorf("decode %s: %w", rec.Key, err)
		}
	}
	return e, nil
}

func (e *Entry) setWord(word string) error {
	key, value, _ := strings.Cut(word, "=")
	n, err := strconv.ParseInt(value, 10, 64)
	if err != nil || n < 0 {
		return fmt.Errorf("%q is not a word and a number", word)
	}
	r := &e.Resources
	switch {
	case key == "epoch":
		e.Epoch = uint64(n)
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
