package guestservices

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// The kinds of sockets of a bridge.
const (
	socketDHCP   = "dhcp"
	socketDNSUDP = "dns/udp"
	socketDNSTCP = "dns/tcp"
)

// socket is an open socket without its server: its server has ended, and another program, or
// another server, is to go on with it. The kernel keeps what comes in meanwhile.
type socket struct {
	Bridge  string       `json:"bridge"`
	Gateway netip.Prefix `json:"gateway"`
	// Index is the interface that the socket is bound to. A bridge that was made anew has
	// another one.
	Index int    `json:"index"`
	Kind  string `json:"kind"`
	FD    int    `json:"fd"`
}

// Sockets are the open sockets that a new server of a bridge is to go on with, by kind. What
// is missing the server opens itself.
type Sockets map[string]int

// packetConn takes a socket out as a connection; nil if there is none.
func (s Sockets) packetConn(kind string) (net.PacketConn, error) {
	fd, ok := s[kind]
	if !ok {
		return nil, nil
	}
	delete(s, kind)
	f := os.NewFile(uintptr(fd), kind)
	defer f.Close()
	conn, err := net.FilePacketConn(f)
	if err != nil {
		return nil, fmt.Errorf("go on with the socket %s: %w", kind, err)
	}
	return conn, nil
}

// listener takes a socket out as a listener; nil if there is none.
func (s Sockets) listener(kind string) (net.Listener, error) {
	fd, ok := s[kind]
	if !ok {
		return nil, nil
	}
	delete(s, kind)
	f := os.NewFile(uintptr(fd), kind)
	defer f.Close()
	l, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("go on with the socket %s: %w", kind, err)
	}
	return l, nil
}

// close closes the sockets that nobody took.
func (s Sockets) close() {
	for kind, fd := range s {
		_ = unix.Close(fd)
		delete(s, kind)
	}
}

// duplicate returns another descriptor of an open socket or file. It is closed by an exec.
func duplicate(conn syscall.Conn) (fd int, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	var dupErr error
	err = raw.Control(func(p uintptr) { fd, dupErr = unix.FcntlInt(p, unix.F_DUPFD_CLOEXEC, 3) })
	return fd, errors.Join(err, dupErr)
}

// inheritance is what a program hands to the one that it executes in its place.
type inheritance struct {
	Version int      `json:"version"`
	Lock    int      `json:"lock"`
	Control int      `json:"control"`
	Sockets []socket `json:"sockets"`
}

const inheritanceVersion = 1

// inheritanceVariable holds the inheritance, as JSON, in the environment.
const inheritanceVariable = "VIRTMESH_GUEST_SERVICES_SOCKETS"

// readInheritance returns what the program before left in a variable of the environment;
// nil if there was none.
func readInheritance(value string) (*inheritance, error) {
	if value == "" {
		return nil, nil
	}
	in := &inheritance{}
	if err := json.Unmarshal([]byte(value), in); err != nil {
		return nil, fmt.Errorf("read %s: %w", inheritanceVariable, err)
	}
	if in.Version != inheritanceVersion {
		return nil, fmt.Errorf("%s has the version %d, and not %d", inheritanceVariable, in.Version, inheritanceVersion)
	}
	for _, fd := range in.descriptors() {
		unix.CloseOnExec(fd)
	}
	return in, nil
}

func (in inheritance) descriptors() []int {
	fds := []int{in.Lock, in.Control}
	for _, s := range in.Sockets {
		fds = append(fds, s.FD)
	}
	return fds
}

// keepOnExec says whether an exec keeps the descriptors.
func (in inheritance) keepOnExec(keep bool) error {
	flag := unix.FD_CLOEXEC
	if keep {
		flag = 0
	}
	var errs []error
	for _, fd := range in.descriptors() {
		_, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, flag)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
