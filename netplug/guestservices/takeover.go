package guestservices

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// serverOf returns who opened the socket that a connection leads to.
func serverOf(conn *net.UnixConn) (unix.Ucred, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return unix.Ucred{}, err
	}
	var server *unix.Ucred
	var optErr error
	err = raw.Control(func(fd uintptr) { server, optErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err = errors.Join(err, optErr); err != nil {
		return unix.Ucred{}, err
	}
	return *server, nil
}

// isForeign reports whether a process of another account serves the folder.
func (c *Client) isForeign(r reply) bool {
	return r.server.Pid > 0 && int(r.server.Uid) != c.cfg.Account.UID
}

// endTimeout bounds how long a process may take to end before it is killed.
const endTimeout = 3 * time.Second

// endProcess ends the process that opened a control socket, and waits for that.
func endProcess(server unix.Ucred) error {
	fd, err := unix.PidfdOpen(int(server.Pid), 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open process %d: %w", server.Pid, err)
	}
	defer unix.Close(fd)
	// The number may belong to another process by now.
	var st unix.Stat_t
	if err := unix.Stat(fmt.Sprintf("/proc/%d", server.Pid), &st); err != nil || st.Uid != server.Uid {
		return fmt.Errorf("process %d, which opened their socket, has ended, and another one uses it", server.Pid)
	}
	for _, signal := range []unix.Signal{unix.SIGTERM, unix.SIGKILL} {
		if err := unix.PidfdSendSignal(fd, signal, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("signal process %d: %w", server.Pid, err)
		}
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(endTimeout.Milliseconds()))
		for errors.Is(err, unix.EINTR) {
			n, err = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(endTimeout.Milliseconds()))
		}
		if err != nil {
			return fmt.Errorf("wait for process %d: %w", server.Pid, err)
		}
		if n > 0 {
			return nil
		}
	}
	return fmt.Errorf("process %d does not end", server.Pid)
}

// removeForeign removes the lock and the control socket that a process of another user has
// left: in this folder nobody else may open the one or remove the other. It returns an error
// if that process runs.
func removeForeign(dir string, uid int) error {
	for _, name := range []string{lockName, controlName} {
		path := filepath.Join(dir, name)
		info, err := os.Lstat(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok && int(st.Uid) == uid {
			continue
		}
		if name == lockName {
			// Held while the file is removed.
			fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
			if err != nil {
				return fmt.Errorf("open %s: %w", path, err)
			}
			defer unix.Close(fd)
			if err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB); err != nil {
				return fmt.Errorf("lock %s: %w", path, err)
			}
		}
		if err := os.Remove(path); err != nil {
			return fmt.Errorf("remove what another user has left: %w", err)
		}
	}
	return nil
}
