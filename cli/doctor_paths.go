package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"

	"virtmesh/storage/bounded"
)

// checkPaths checks that QEMU's user can reach the disks of guests: it must have the
// right to pass through every directory above them. A host that is not in a mesh yet
// is checked with the defaults.
func checkPaths(configPath string) func(context.Context) finding {
	const check = "paths to disks"
	return func(context.Context) finding {
		config, err := loadHostConfig(configPath)
		if err != nil {
			return finding{check, failed, err.Error(), "correct " + configPath}
		}
		qemu, err := lookupUser(config.Hypervisor.User)
		if err != nil {
			return finding{check, failed, err.Error(), "apt-get install libvirt-daemon-system, or correct hypervisor.user in " + configPath}
		}
		paths := []string{config.StateDir}
		for _, pool := range config.Pools {
			paths = append(paths, pool.Path)
		}
		for _, path := range paths {
			var closed string
			err := bounded.Wait(bounded.Patience, func() (err error) {
				closed, err = qemu.closedDirectory(path)
				return err
			})
			if errors.Is(err, bounded.ErrSilent) {
				if path == config.StateDir {
					return finding{check, failed, fmt.Sprintf("the file system of %s does not answer", path), "the agent needs its state directory on a local disk"}
				}
				continue // the check of the pools tells it
			}
			if err != nil {
				return finding{check, failed, err.Error(), "make " + path + " a directory on a local disk"}
			}
			if closed != "" {
				return finding{
					check, failed, fmt.Sprintf("%s is closed to user %s, so no guest whose disks are below it can start", closed, config.Hypervisor.User),
					fmt.Sprintf("chmod o+x %s (lets others pass through it, not list it)", closed),
				}
			}
		}
		return finding{check, passed, fmt.Sprintf("user %s reaches %s", config.Hypervisor.User, config.StateDir), ""}
	}
}

// account is a user of this machine with the groups that it is in.
type account struct {
	uid  uint32
	gids []uint32
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
