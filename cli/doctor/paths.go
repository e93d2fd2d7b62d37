package doctor

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
)

// account is a user of this machine with the groups that it is in, its own first.
type account struct {
	uid  uint32
	gids []uint32
}

// withUID returns whom a guest with a uid of its own runs as: it has the group of a, and
// no other.
func (a account) withUID(uid uint32) account {
	return account{uid: uid, gids: a.gids[:min(1, len(a.gids))]}
}

// lookupUser finds a user of this machine by name.
func lookupUser(name string) (account, error) {
	u, err := user.Lookup(name)
	if err != nil {
		return account{}, fmt.Errorf("find QEMU's user: %w", err)
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return account{}, fmt.Errorf("read the ID of user %s: %w", name, err)
	}
	groups, err := u.GroupIds()
	if err != nil {
		return account{}, fmt.Errorf("read the groups of user %s: %w", name, err)
	}
	a := account{uid: uint32(uid)}
	for _, group := range groups {
		gid, err := strconv.ParseUint(group, 10, 32)
		if err != nil {
			return account{}, fmt.Errorf("read the groups of user %s: %w", name, err)
		}
		a.gids = append(a.gids, uint32(gid))
	}
	return a, nil
}

// closedDirectory returns the highest directory above path, or path itself, that the
// account may not pass through; "" if it may pass through all. It ignores directories
// that do not exist yet: the agent creates them.
func (a account) closedDirectory(path string) (string, error) {
	var way []string
	for dir := filepath.Clean(path); ; dir = filepath.Dir(dir) {
		way = append(way, dir)
		if dir == filepath.Dir(dir) {
			break
		}
	}
	for _, dir := range slices.Backward(way) {
		info, err := os.Stat(dir)
		if errors.Is(err, fs.ErrNotExist) {
			return "", nil
		}
		if err != nil {
			return "", fmt.Errorf("check the directories above %s: %w", path, err)
		}
		if !a.mayPass(info) {
			return dir, nil
		}
	}
	return "", nil
}

// mayPass reports whether the account has the search permission of a directory, as
// path_resolution(7) says: of owner, group and others, only the first that fits counts.
func (a account) mayPass(info fs.FileInfo) bool {
	mode := info.Mode().Perm()
	owner, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case ok && owner.Uid == a.uid:
		return mode&0o100 != 0
	case ok && slices.Contains(a.gids, owner.Gid):
		return mode&0o010 != 0
	default:
		return mode&0o001 != 0
	}
}
