package rulesv3

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"virtmesh/raftstore"
)

// Prefixes of the keys of records that the rule reads.
const (
	hostPrefix     = "/claims/host/"
	capacityPrefix = "/claims/capacity/"
	spacePrefix    = "/claims/space/"
)

// The records, with the fields that the rule reads.
type (
	capacity struct {
		Disks []disk `json:"disks"`
	}
	disk struct {
		State bool     `json:"state"`
		Pools []string `json:"pools"`
		Bytes int64    `json:"bytes"`
	}
	space struct {
		Pool  string `json:"pool"`
		Bytes int64  `json:"bytes"`
	}
)

// checkPoolCapacity requires that what is promised on the file systems in the arguments is
// within what the host has published for them. A host that has published no capacity accepts
// nothing. A pool of which it has published no file system has no limit: it is shared with
// other hosts, or the host has not published since the mesh has this rule.
func checkPoolCapacity(v raftstore.View, _ *raftstore.Txn, raw []byte) error {
	var args poolArgs
	if err := json.Unmarshal(raw, &args); err != nil {
		return fmt.Errorf("arguments: %w", err)
	}
	rec, ok := v.Get(capacityPrefix + args.Host)
	if !ok {
		return fmt.Errorf("host %s has published no capacity", args.Host)
	}
	limit, err := decode[capacity](rec)
	if err != nil {
		return err
	}
	for _, d := range limit.Disks {
		if !args.concern(d) {
			continue
		}
		promised, err := d.promised(v, args.Host)
		if err != nil {
			return err
		}
		if promised > d.Bytes {
			return fmt.Errorf("host %s may promise %d MiB on the disk of %s, and %d MiB would be", args.Host, d.Bytes>>20, d.name(), promised>>20)
		}
	}
	return nil
}

// concern reports whether the arguments name a file system.
func (a poolArgs) concern(d disk) bool {
	return a.State && d.State || slices.ContainsFunc(a.Pools, func(pool string) bool { return slices.Contains(d.Pools, pool) })
}

// name names the file system for people.
func (d disk) name() string {
	if len(d.Pools) == 0 {
		return "its state"
	}
	return "pool " + strings.Join(d.Pools, " and ")
}

// promised returns the bytes that are promised on a file system of a host.
func (d disk) promised(v raftstore.View, host string) (total int64, err error) {
	v.Ascend(spacePrefix+host+"/", func(rec raftstore.Record) bool {
		var s space
		if s, err = decode[space](rec); err != nil {
			return false
		}
		if s.Bytes < 0 {
			err = fmt.Errorf("decode %s: %d bytes", rec.Key, s.Bytes)
			return false
		}
		if slices.Contains(d.Pools, s.Pool) {
			total = sum(total, s.Bytes)
		}
		return true
	})
	if err != nil || !d.State {
		return total, err
	}
	v.Ascend(hostPrefix+host+"/", func(rec raftstore.Record) bool {
		var n int64
		if n, err = ephemeralOf(rec); err != nil {
			return false
		}
		total = sum(total, n)
		return true
	})
	return total, err
}

// ephemeralOf returns the bytes in the entry of an instance on a host that end with it.
func ephemeralOf(rec raftstore.Record) (int64, error) {
	for word := range strings.SplitSeq(string(rec.Value), " ") {
		value, ok := strings.CutPrefix(word, "ephemeral=")
		if !ok {
			continue
		}
		n, err := strconv.ParseInt(value, 10, 64)
		if err != nil || n < 0 {
			return 0, fmt.Errorf("decode %s: %q is not a word and a number", rec.Key, word)
		}
		return n, nil
	}
	return 0, nil
}

// sum adds amounts that are not negative. A sum that no number can hold stays the greatest
// number, which no host has.
func sum(a, b int64) int64 {
	if a > math.MaxInt64-b {
		return math.MaxInt64
	}
	return a + b
}

// decode reads the JSON of a record.
func decode[T any](rec raftstore.Record) (T, error) {
	var v T
	if err := json.Unmarshal(rec.Value, &v); err != nil {
		return v, fmt.Errorf("decode %s: %w", rec.Key, err)
	}
	return v, nil
}
