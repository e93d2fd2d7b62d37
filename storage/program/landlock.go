package program

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"unsafe"

	"golang.org/x/sys/unix"
)

// What may be done with files below a rule. Rules for files can only have those of
// fileRights.
const (
	readRights  = unix.LANDLOCK_ACCESS_FS_EXECUTE | unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_READ_DIR
	writeRights = unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_TRUNCATE | unix.LANDLOCK_ACCESS_FS_IOCTL_DEV
	fileRights  = writeRights | unix.LANDLOCK_ACCESS_FS_EXECUTE
)

// systemPaths are what programs need to start and to run, as far as they exist: themselves,
// libraries, and what these read when they start.
var systemPaths = []string{
	"/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/etc/ld.so.cache", "/etc/ld.so.preload", "/etc/ssl/openssl.cnf", "/etc/gnutls",
	"/etc/localtime", "/dev/null", "/dev/zero", "/dev/random", "/dev/urandom", "/sys/devices/system/cpu", "/proc/cpuinfo", "/proc/sys/crypto",
}

// LandlockVersion returns the version of Landlock that the kernel has, 0 without it. Later
// versions hold back more.
func LandlockVersion() int {
	version, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno != 0 {
		return 0 // not built in, or switched off
	}
	return int(version)
}

// ruleset is what a kernel with a version of Landlock can hold back: all of it but signals to
// processes of the same sandbox.
func ruleset(version int) unix.LandlockRulesetAttr {
	const first = 1<<13 - 1 // the rights of version 1
	attr := unix.LandlockRulesetAttr{Handled_access_fs: first}
	for _, added := range []struct {
		since int
		fs    uint64
		net   uint64
		scope uint64
	}{
		{2, unix.LANDLOCK_ACCESS_FS_REFER, 0, 0},
		{3, unix.LANDLOCK_ACCESS_FS_TRUNCATE, 0, 0},
		{4, 0, unix.LANDLOCK_ACCESS_NET_BIND_TCP | unix.LANDLOCK_ACCESS_NET_CONNECT_TCP, 0},
		{5, unix.LANDLOCK_ACCESS_FS_IOCTL_DEV, 0, 0},
		{6, 0, 0, unix.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET | unix.LANDLOCK_SCOPE_SIGNAL},
	} {
		if version >= added.since {
			attr.Handled_access_fs |= added.fs
			attr.Handled_access_net |= added.net
			attr.Scoped |= added.scope
		}
	}
	return attr
}

// restrictThread takes from the calling thread, and from the programs that it starts, for ever
// all access to files but to read those at paths and what programs need, and to use files in
// the way in which they are open. Where the kernel has no Landlock it does nothing. The
// caller keeps the thread to itself, and has it end.
func restrictThread(files []*os.File, paths []string) error {
	version := LandlockVersion()
	if version == 0 {
		return nil
	}
	attr := ruleset(version)
	set, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr), 0)
	if errno != 0 {
		return fmt.Errorf("make a ruleset of Landlock: %w", errno)
	}
	defer unix.Close(int(set))
	rules := rules{set: set, handled: attr.Handled_access_fs}
	for _, path := range append(paths, systemPaths...) {
		if err := rules.allowPath(path); err != nil {
			return fmt.Errorf("let a program read %s: %w", path, err)
		}
	}
	for _, file := range files {
		if err := rules.allowFile(file); err != nil {
			return fmt.Errorf("let a program use %s: %w", file.Name(), err)
		}
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("give up new rights: %w", err)
	}
	if _, _, errno := unix.Syscall(unix.SYS_LANDLOCK_RESTRICT_SELF, set, 0, 0); errno != 0 {
		return fmt.Errorf("restrict a program with Landlock: %w", errno)
	}
	return nil
}

// rules is a ruleset that is being made.
type rules struct {
	set     uintptr
	handled uint64
}

// allowPath lets what is at path be read and executed. A path that does not exist is left out.
func (r rules) allowPath(path string) error {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.EACCES):
		return nil
	case err != nil:
		return err
	}
	defer unix.Close(fd)
	rights := uint64(readRights)
	if path == os.DevNull {
		rights = writeRights
	}
	return r.allow(fd, rights)
}

// allowFile lets a file be used in the way in which it is open.
func (r rules) allowFile(file *os.File) error {
	flags, err := unix.FcntlInt(file.Fd(), unix.F_GETFL, 0)
	if err != nil {
		return err
	}
	rights := uint64(writeRights)
	if flags&unix.O_ACCMODE == unix.O_RDONLY {
		rights = unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_IOCTL_DEV
	}
	return r.allow(int(file.Fd()), rights)
}

func (r rules) allow(fd int, rights uint64) error {
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil {
		return err
	}
	if stat.Mode&unix.S_IFMT != unix.S_IFDIR {
		rights &= fileRights
	}
	rule := unix.LandlockPathBeneathAttr{Allowed_access: rights & r.handled, Parent_fd: int32(fd)}
	if _, _, errno := unix.Syscall6(unix.SYS_LANDLOCK_ADD_RULE, r.set, unix.LANDLOCK_RULE_PATH_BENEATH, uintptr(unsafe.Pointer(&rule)), 0, 0, 0); errno != 0 {
		return errno
	}
	return nil
}

// searchPaths returns the folders in which programs are looked for, and the folder of the
// program at path if it is not in one of them.
func searchPaths(path string) []string {
	folders := filepath.SplitList(os.Getenv("PATH"))
	if filepath.IsAbs(path) {
		folders = append(folders, path)
	}
	return folders
}
