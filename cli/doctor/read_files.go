package doctor

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"

	"virtmesh/agent"
	"virtmesh/agent/host"
	"virtmesh/storage/bounded"
)

// ask returns what a question to a file system brings, or that it does not answer.
func ask[T any](question func() (T, error)) (T, error) {
	// Buffered, and not a variable: the answer may come after the wait.
	answer := make(chan T, 1)
	err := bounded.Wait(bounded.Patience, func() error {
		value, err := question()
		answer <- value
		return err
	})
	var value T
	if err == nil {
		value = <-answer
	}
	return value, err
}

// readFiles reads what file systems say, all at once: each may keep its reader waiting.
func (f *Facts) readFiles() {
	var readers sync.WaitGroup
	readers.Go(func() { f.Filesystems = readFilesystems(f.Config) })
	readers.Go(func() { f.Paths = readPaths(f.Config) })
	readers.Go(func() { f.Pools = readPools(f.Config) })
	readers.Wait()
}

// location is the part of a file system's state that its device is known by.
type location struct {
	dir         string
	device      uint64
	free, total int64
}

// locate finds the file system of a directory, or of the one in which it will be made.
func locate(dir string) (location, error) {
	info, err := os.Stat(dir)
	for errors.Is(err, os.ErrNotExist) && dir != filepath.Dir(dir) {
		dir = filepath.Dir(dir)
		info, err = os.Stat(dir)
	}
	if err != nil {
		return location{dir: dir}, err
	}
	var fs syscall.Statfs_t
	if err := syscall.Statfs(dir, &fs); err != nil {
		return location{dir: dir}, err
	}
	found := location{dir: dir, free: int64(fs.Bavail) * fs.Bsize, total: int64(fs.Blocks) * fs.Bsize}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		found.device = stat.Dev
	}
	return found, nil
}

// readFilesystems returns the file systems of the state directory and of the pools, each
// once, with what is on it. A pool whose file system does not answer is left out: reading
// the pools tells it.
func readFilesystems(config agent.Config) []Filesystem {
	type place struct {
		role, dir string
		isPool    bool
	}
	places := []place{{role: roleState, dir: config.StateDir}, {role: roleImages, dir: filepath.Join(config.StateDir, "images")},
		{role: roleInstances, dir: filepath.Join(config.StateDir, "instances")}}
	for _, pool := range config.Pools {
		places = append(places, place{"pool " + pool.Name, pool.Path, true})
	}
	var found []Filesystem
	var devices []uint64
	for _, p := range places {
		at, err := ask(func() (location, error) { return locate(p.dir) })
		silent := errors.Is(err, bounded.ErrSilent)
		if silent && p.isPool {
			continue
		}
		if err != nil {
			found, devices = append(found, Filesystem{Dir: p.dir, Roles: []string{p.role}, Err: err}), append(devices, 0)
			if silent {
				break // what is below the state directory would not answer either
			}
			continue
		}
		if i := slices.Index(devices, at.device); i >= 0 && found[i].Err == nil {
			found[i].Roles = append(found[i].Roles, p.role)
			continue
		}
		found, devices = append(found, Filesystem{Dir: at.dir, Roles: []string{p.role}, Free: at.free, Total: at.total}), append(devices, at.device)
	}
	return found
}

// readPaths looks at the way of QEMU's user, and of a guest's own, to the disks of guests:
// both must have the right to pass through every directory above them. A pool whose file system does not answer is
// left out, as in readFilesystems.
func readPaths(config agent.Config) []Passage {
	qemu, err := lookupUser(config.Hypervisor.User)
	if err != nil {
		return []Passage{{Path: config.StateDir, Err: err}}
	}
	guest := qemu.withUID(config.Hypervisor.UIDs().First)
	paths := []string{config.StateDir}
	for _, pool := range config.Pools {
		paths = append(paths, pool.Path)
	}
	passages := make([]Passage, 0, len(paths))
	for _, path := range paths {
		closed, err := ask(func() (string, error) {
			if closed, err := qemu.closedDirectory(path); closed != "" || err != nil {
				return closed, err
			}
			return guest.closedDirectory(path)
		})
		if errors.Is(err, bounded.ErrSilent) && path != config.StateDir {
			continue
		}
		passages = append(passages, Passage{Path: path, Closed: closed, Err: err})
	}
	return passages
}

func readPools(config agent.Config) []Pool {
	pools := make([]Pool, 0, len(config.Pools))
	for _, pool := range config.Pools {
		pools = append(pools, Pool{Name: pool.Name, Err: host.CheckPool(pool, config.StateDir)})
	}
	return pools
}
