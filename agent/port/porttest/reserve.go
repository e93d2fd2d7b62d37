// Package porttest gives tests ports to listen on. Only tests may import it.
package porttest

import (
	"fmt"
	"testing"

	"golang.org/x/sys/unix"
)

// Reserve returns the port of an IPv4 address that nothing listens on, for the test to listen
// on as often as it likes until it ends, also after pauses. A port that is looked for and let
// go may be taken before the test listens on it, by any connection of the machine: the kernel
// gives neither listeners nor connections a port that a socket is bound to.
func Reserve(tb testing.TB) int {
	tb.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		tb.Fatal(fmt.Errorf("reserve a port: %w", err))
	}
	tb.Cleanup(func() { _ = unix.Close(fd) })
	// Where both sockets have this option, and Go gives it to every listener, a port that is
	// bound may be listened on.
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		tb.Fatal(fmt.Errorf("reserve a port: %w", err))
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{}); err != nil {
		tb.Fatal(fmt.Errorf("reserve a port: %w", err))
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		tb.Fatal(fmt.Errorf("reserve a port: %w", err))
	}
	return name.(*unix.SockaddrInet4).Port
}

// Address returns an address of this machine's loopback network whose port is reserved.
func Address(tb testing.TB) string {
	tb.Helper()
	return fmt.Sprintf("127.0.0.1:%d", Reserve(tb))
}
