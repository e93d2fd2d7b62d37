package rulesv1

import (
	"math"
	"reflect"
	"testing"

	"virtmesh/raftstore"
)

func TestEntriesThatAreNotUnderstoodAreRefused(t *testing.T) {
	r, err := decodeEntry(raftstore.Record{Value: []byte("ns/vm epoch=7 cpu=100 memory=2 ephemeral=3 hugepages:2Mi=4 device:a/b=1")})
	want := resources{100, 2, 3, map[string]int64{"2Mi": 4}, map[string]int64{"a/b": 1}}
	if err != nil || !reflect.DeepEqual(r, want) {
		t.Errorf("read as %+v (%v)", r, err)
	}
	for _, bad := range []string{"", "x", "ns/vm cpu=x", "ns/vm cpu=-1", "ns/vm epoch", "ns/vm gpus=1", "ns/vm  cpu=1"} {
		if _, err := decodeEntry(raftstore.Record{Value: []byte(bad)}); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

// An entry that is read has no negative amounts, so that no entry makes room for another.
func FuzzDecodeEntry(f *testing.F) {
	f.Add([]byte("ns/vm epoch=7 cpu=100 memory=1 hugepages:2Mi=4 device:a/b=1"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := decodeEntry(raftstore.Record{Value: b})
		if err != nil {
			return
		}
		if lacking := r.lacking(resources{}); len(lacking) > 0 {
			t.Errorf("%q: negative %v", b, lacking)
		}
	})
}

// Claims that together are more than a number can hold are not taken for few.
func TestSumsDoNotOverflow(t *testing.T) {
	huge := resources{math.MaxInt64, math.MaxInt64, math.MaxInt64, map[string]int64{"2Mi": math.MaxInt64}, map[string]int64{"gpu": math.MaxInt64}}
	var claimed resources
	claimed.add(huge)
	claimed.add(huge)
	host := resources{10, 10, 10, map[string]int64{"2Mi": 10}, map[string]int64{"gpu": 10}}
	if lacking := host.lacking(claimed); len(lacking) != 5 {
		t.Errorf("lacks only %v", lacking)
	}
}
