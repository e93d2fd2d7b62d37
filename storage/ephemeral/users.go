package ephemeral

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"math"
	"os"
	"path/filepath"

	"virtmesh/storage/durable"
)

// UserRange is a range of uids that belong to no account. Each virtual machine gets one
// of them for one run, so that no emulator can open what belongs to another's.
type UserRange struct {
	// First is the lowest uid of the range.
	First uint32 `json:"first"`
	// Count is how many uids it has; 0 is no range.
	Count uint32 `json:"count"`
}

// Bounds of a UserRange.
const (
	// leastUser is the first uid above those that hosts give to accounts and services.
	leastUser = 1 << 16
	// leastUsers is the smallest range in which a uid comes back seldom enough: a shared
	// pool or a power loss can leave a file with the uid of a run that is over.
	leastUsers = 1 << 15
	// mostUser is the highest uid that no program takes for a negative number.
	mostUser = math.MaxInt32
)

// Validate returns an error that names the bound that r does not keep.
func (r UserRange) Validate() error {
	switch last := uint64(r.First) + uint64(r.Count); {
	case r.First < leastUser:
		return fmt.Errorf("first: %d is below %d, where hosts have accounts", r.First, leastUser)
	case r.Count < leastUsers:
		return fmt.Errorf("count: %d is less than %d", r.Count, leastUsers)
	case last > mostUser:
		return fmt.Errorf("count: the range ends at %d, above %d", last-1, mostUser-1)
	}
	return nil
}

// choose returns a uid for the run of a virtual machine with that UID that is not taken.
// The uid follows from the UID: on another host, where the run may have left files in a
// shared pool, it is almost certainly the uid of no other.
func (r UserRange) choose(uid string, taken map[uint32]bool) (uint32, error) {
	h := fnv.New64a()
	_, _ = h.Write([]byte(uid)) // it does not fail
	start := uint32(h.Sum64() % uint64(r.Count))
	for i := range r.Count {
		if user := r.First + (start+i)%r.Count; !taken[user] {
			return user, nil
		}
	}
	return 0, errors.New("all uids of the range are taken")
}

// noted is the content of a folder's note.
type noted struct {
	VM
	// User is the uid that the emulator of this run has; 0 in the note of an earlier
	// version, or of a run that has not been given one.
	User uint32 `json:"user,omitempty"`
}

func (d *Disks) readNote(uid string) (noted, error) {
	raw, err := os.ReadFile(filepath.Join(d.folder(uid), note))
	if err != nil {
		return noted{}, err
	}
	var n noted
	if err := json.Unmarshal(raw, &n); err != nil {
		return noted{}, err
	}
	if n.UID != uid {
		return noted{}, fmt.Errorf("it says it is %q", n.UID)
	}
	return n, nil
}

// User returns the uid that the emulator of vm has, and that no other run has which has
// left something here. It is written to the folder of vm before it is returned, and stays
// the same until Remove has removed the folder and all disks in it.
func (d *Disks) User(ctx context.Context, vm VM) (uint32, error) {
	user, err := d.giveUser(ctx, vm)
	if err != nil {
		return 0, fmt.Errorf("user of %s/%s: %w", vm.Namespace, vm.Name, err)
	}
	return user, nil
}

func (d *Disks) giveUser(ctx context.Context, vm VM) (uint32, error) {
	if d.cfg.Users.Count == 0 {
		return 0, errors.New("there is no range of uids")
	}
	end, err := d.waitTurn(ctx, vm.UID)
	if err != nil {
		return 0, err
	}
	defer end()
	if err := d.makeFolder(vm); err != nil {
		return 0, err
	}
	d.giving.Lock()
	defer d.giving.Unlock()
	n, err := d.readNote(vm.UID)
	if err != nil {
		return 0, err
	}
	// A uid from outside the range is of a range that was configured before: a run that
	// goes on keeps it.
	if n.User != 0 {
		return n.User, nil
	}
	taken, err := d.takenUsers()
	if err != nil {
		return 0, err
	}
	if n.User, err = d.cfg.Users.choose(vm.UID, taken); err != nil {
		return 0, err
	}
	raw, err := json.Marshal(n)
	if err != nil {
		return 0, err
	}
	if err := durable.WriteFile(filepath.Join(d.folder(vm.UID), note), raw, 0o600); err != nil {
		return 0, classifyNoSpace(err)
	}
	return n.User, nil
}

// takenUsers returns the uids that the folders' notes name. It passes over a note that is
// damaged: that keeps no other guest of the host from starting, and the uid in it is one
// of so many that it is almost certainly not chosen again.
func (d *Disks) takenUsers() (map[uint32]bool, error) {
	dirs, err := os.ReadDir(d.cfg.Dir)
	if err != nil {
		return nil, err
	}
	taken := map[uint32]bool{}
	for _, e := range dirs {
		if !isFolder(e) {
			continue
		}
		n, err := d.readNote(e.Name())
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // else removed meanwhile, or not the folder of a VM
			d.cfg.Log.Warn("a folder of disks does not say which uid they have", "path", d.folder(e.Name()), "err", err)
		}
		if err == nil && n.User != 0 {
			taken[n.User] = true
		}
	}
	return taken, nil
}
