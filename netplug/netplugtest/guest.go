package netplugtest

import (
	"errors"
	"net"
	"os"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// Guest simulates a virtual machine on a tap. It is a network namespace with a card "eth0".
// Like QEMU, the test process holds the tap open and copies frames between tap and card.
type Guest struct {
	*Host
	files []*os.File
	wg    sync.WaitGroup
	once  sync.Once
}

// NewGuest opens the tap and makes a namespace whose card has the MAC address. The guest
// lasts until Stop or the end of the test.
func NewGuest(t testing.TB, tap string, mac net.HardwareAddr) *Guest {
	t.Helper()
	g := &Guest{Host: NewHost(t)}
	t.Cleanup(g.Stop)
	g.AddCard(t, "eth0", tap, mac)
	return g
}

// AddCard adds a card on another tap to the guest.
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
	go g.copyFrames(inner, outer)
	go g.copyFrames(outer, inner)
}

// Stop ends the guest and closes its taps.
func (g *Guest) Stop() {
	g.once.Do(func() {
		for _, f := range g.files {
			_ = f.Close()
		}
		g.wg.Wait()
	})
}

// copyFrames copies frames in one direction until an end is closed or its tap is removed. A
// frame is lost if the other end does not take it because it is down.
func (g *Guest) copyFrames(to, from *os.File) {
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

// OpenTap opens a tap of this namespace. If there is none with the name, it makes one that
// disappears when it is closed. The flags, such as IFF_VNET_HDR, are added to IFF_TAP and
// IFF_NO_PI.
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
