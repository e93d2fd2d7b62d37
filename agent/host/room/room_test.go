package room

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	"virtmesh/storage"
)

const gib = int64(1) << 30

func space(free int64, device uint64) storage.Space {
	return storage.Space{Capacity: 100 * gib, Free: free * gib, Device: device}
}

func TestPoolsOnOneFileSystemAreOneDisk(t *testing.T) {
	state, fast := space(10, 1), space(20, 2)
	got := Group(state, map[string]storage.Space{"local": state, "fast": fast, "faster": fast})
	want := []Disk{{State: true, Pools: []string{"local"}, Space: state}, {Pools: []string{"fast", "faster"}, Space: fast}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// What shares a file system shares its room, and the reserve stays free.
func TestRoomIsPromisedOnce(t *testing.T) {
	disks := Group(space(10, 1), map[string]storage.Space{"local": space(10, 1), "fast": space(20, 2)})
	for _, test := range []struct {
		name      string
		ephemeral int64
		pools     map[string]int64
		reason    string
	}{
		{"nothing", 0, nil, ""},
		{"all but the reserve", 4, map[string]int64{"local": 5 * gib, "fast": 19 * gib}, ""},
		{"the sum is too much for the disk they share", 5, map[string]int64{"local": 5 * gib}, "10240 MiB are needed on the disk of pool local, and new disks may take 9216 MiB there"},
		{"too much for one pool", 0, map[string]int64{"fast": 19*gib + 1}, "on the disk of pool fast"},
		{"a pool that is not there", 0, map[string]int64{"slow": 1}, "cannot use pool slow"},
	} {
		err := Check(disks, gib, test.ephemeral*gib, test.pools)
		if (err == nil) != (test.reason == "") || err != nil && !strings.Contains(err.Error(), test.reason) {
			t.Errorf("%s: %v, want %q", test.name, err, test.reason)
		}
	}
	if err := Check(Group(space(1, 1), nil), gib, 1, nil); !errors.Is(err, storage.ErrNoSpace) || !strings.Contains(err.Error(), "the host's state") {
		t.Errorf("a disk at its reserve: %v", err)
	}
}
