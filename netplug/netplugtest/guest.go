package netplugtest

import (
	"errors"
	"net"
	"os"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// Guest is a machine on a tap: a network namespace with a card "eth0" that is wired to the
// tap as a virtual machine's is, by a process that holds the tap open.
type Guest struct {
	*Host
	files []*os.File
	wg    sync.WaitGroup
	once  sync.Once
}

// NewGuest opens the tap and gives a new namespace a card with the address. It lasts until
// the end of the test or Stop.
func NewGuest(t testing.TB, tap string, mac net.HardwareAddr) *Guest {
	t.Helper()
	g := &Guest{Host: NewHost(t)}
	t.Cleanup(g.Stop)
	g.AddCard(t, "eth0", tap, mac)
	return g
}

// AddCard gives the machine a further card on a tap.
func (g *Guest) AddCard(t testing.TB, name, tap string, mac net.HardwareAddr) {
	t.Helper()
	outer, err := OpenTap(tap, 0)
	if err != nil {
		t.Fatalf("open tap %s: %v", tap, err)
	}
	var inner *os.File
	err = g.Do(func() (err error) {
		inner, err = OpenTap(name, 0)
		return err
	})
	if err != nil {
		_ = outer.Close()
		t.Fatalf("make the guest's card: %v", err)
	}
	g.files = append(g.files, outer, inner)
	g.Run("ip", "link", "set", name, "address", mac.String(), "up")
	g.wg.Add(2)
	go g.wire(inner, outer)
	go g.wire(outer, inner)
}

// Stop ends the machine: its taps are no longer held open.
func (g *Guest) Stop() {
	g.once.Do(func() {
		for _, f := range g.files {
			_ = f.Close()
		}
		g.wg.Wait()
	})
}

// wire carries frames one way until an end is closed or its tap removed. A frame that the
// other end does not take, since it is down, is lost, as on a wire.
func (g *Guest) wire(to, from *os.File) {
	defer g.wg.Done()
	buf := make([]byte, 65536)
	for {
		n, err := from.Read(buf)
		if err != nil {
			return
		}
		if _, err := to.Write(buf[:n]); errors.Is(err, os.ErrClosed) {
			return
		}
	}
}

// OpenTap attaches to a tap of this namespace, or makes one that is gone when it is
// closed. The flags, such as IFF_VNET_HDR, are added to those that every user of a tap
// asks for.
func OpenTap(name string, flags uint16) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	req, err := unix.NewIfreq(name)
	if err == nil {
		req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | flags)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
	}
	if err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}
