package ephemeral

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"virtmesh/storage"
)

var testUsers = UserRange{First: 1_000_000, Count: 1 << 16}

func numbered(i int) VM {
	return VM{Namespace: "default", Name: fmt.Sprint("vm", i), UID: fmt.Sprintf("6f4a3c1e-0000-4000-8000-%012d", i)}
}

// Runs that are there at the same time have different uids, also when they begin at the
// same moment and when what their UIDs suggest is taken; a run keeps its own, whatever
// range another start of the agent is given, and what its disks leave free is given again.
func TestEachRunHasAUser(t *testing.T) {
	const runs = 40
	d := open(t, func(c *Config) { c.Users = testUsers })
	// The first run has a uid that the second would get.
	if err := d.makeFolder(numbered(0)); err != nil {
		t.Fatal(err)
	}
	wanted, err := testUsers.choose(numbered(1).UID, nil)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := json.Marshal(noted{VM: numbered(0), User: wanted})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(d.folder(numbered(0).UID), note), raw, 0o600); err != nil {
		t.Fatal(err)
	}
	users := make([]uint32, runs)
	var wg sync.WaitGroup
	for i := range users {
		wg.Go(func() {
			var err error
			if users[i], err = d.User(context.Background(), numbered(i)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	by := map[uint32]int{}
	for i, user := range users {
		if other, taken := by[user]; taken || user < testUsers.First || user >= testUsers.First+testUsers.Count {
			t.Errorf("run %d has uid %d; run %d: %v", i, user, other, taken)
		}
		by[user] = i
	}
	if users[0] != wanted {
		t.Errorf("a run that had uid %d has %d", wanted, users[0])
	}

	cfg := d.cfg
	cfg.Users = UserRange{First: 2_000_000, Count: 1 << 16}
	again, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	for i := range users {
		if got, err := again.User(context.Background(), numbered(i)); err != nil || got != users[i] {
			t.Errorf("run %d had uid %d, now %d, %v", i, users[i], got, err)
		}
	}
	if err := again.Remove(context.Background(), numbered(0).UID); err != nil {
		t.Fatal(err)
	}
	if taken, err := again.takenUsers(); err != nil || taken[wanted] {
		t.Errorf("uid %d is taken after its disks are gone, %v", wanted, err)
	}
}

// The folder of an earlier version names no uid, and gets one at the next start.
func TestUserOfAnEarlierFolder(t *testing.T) {
	d := open(t, func(c *Config) { c.Users = testUsers })
	if err := d.makeFolder(vm); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(d.folder(vm.UID), note)
	if raw, err := os.ReadFile(path); err != nil || strings.Contains(string(raw), "user") {
		t.Fatalf("%s, %v", raw, err)
	}
	user, err := d.User(context.Background(), vm)
	if err != nil || user == 0 {
		t.Fatalf("uid %d, %v", user, err)
	}
	if list, err := d.List(); err != nil || len(list) != 1 || list[0] != vm {
		t.Errorf("%v, %v", list, err)
	}
	// One damaged folder keeps no other run from starting.
	if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := d.User(context.Background(), numbered(2)); err != nil {
		t.Error(err)
	}
	if _, err := d.User(context.Background(), vm); err == nil {
		t.Error("a damaged folder has a uid")
	}
}

func TestUserRange(t *testing.T) {
	for r, want := range map[UserRange]string{
		{First: 1 << 16, Count: 1 << 16}:           "",
		{First: 1_900_000_000, Count: 200_000_000}: "",
		{First: 1000, Count: 1 << 16}:              "first: 1000 is below",
		{First: 1_000_000, Count: 100}:             "count: 100 is less",
		{First: 2_147_483_000, Count: 1 << 16}:     "count: the range ends at",
	} {
		err := r.Validate()
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", r, err, want)
		}
	}
	full := map[uint32]bool{}
	for i := range testUsers.Count {
		full[testUsers.First+i] = true
	}
	if user, err := testUsers.choose("a", full); err == nil {
		t.Errorf("uid %d is given although all are taken", user)
	}
}

// The socket of a guest's agent is in a folder that the disks' user cannot enter, and goes
// with the disks.
func TestAgentSocketIsClosed(t *testing.T) {
	d := open(t, nil)
	for range 2 {
		path, err := d.AgentSocket(context.Background(), vm)
		if err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(filepath.Dir(path)); err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("the folder of %s: %v, %v", path, info.Mode(), err)
		}
	}
	if err := d.Remove(context.Background(), vm.UID); err != nil {
		t.Fatal(err)
	}
	if left, err := d.List(); err != nil || len(left) != 0 {
		t.Errorf("%v, %v", left, err)
	}
	long := open(t, func(c *Config) { c.Dir = filepath.Join(c.Dir, strings.Repeat("x", 60)) })
	if path, err := long.AgentSocket(context.Background(), vm); err == nil || !strings.Contains(err.Error(), storage.ErrInvalid.Error()) {
		t.Errorf("%s, %v", path, err)
	}
}
