package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"

	"golang.org/x/sys/unix"

	"virtmesh/netplug"
	"virtmesh/netplug/kernel"
)

// The names and addresses of the network that is measured.
const (
	bedBridge = "vm-pod"
	bedUplink = "up0"
	// bedPayload is how many bytes a packet carries.
	bedPayload = 64
)

var (
	bedMACs      = [2]net.HardwareAddr{{2, 0, 0, 0, 0, 10}, {2, 0, 0, 0, 0, 11}}
	bedAddresses = [2]netip.Addr{netip.MustParseAddr("10.9.0.10"), netip.MustParseAddr("10.9.0.11")}
	bedNeighbour = netip.MustParseAddr("10.50.0.2")
)

// networkBed is a host's network with two guests and an uplink. The far end of each is a file
// of this process, so that a packet takes the way through the host alone.
type networkBed struct {
	guests [2]*os.File
	uplink *os.File
	plug   *netplug.Plug
	kernel *kernel.Kernel
}

// makeNetworkBed makes the network in the way that is named, in this process's namespace.
func makeNetworkBed(ctx context.Context, way string) (_ *networkBed, err error) {
	b := &networkBed{}
	defer func() {
		if err != nil {
			b.close()
		}
	}()
	if err := shell(ctx, `ip link set lo up
		ip tuntap add dev `+bedUplink+` mode tap
		ip address add 10.50.0.1/24 dev `+bedUplink+`
		ip link set `+bedUplink+` up
		ip neighbour add `+bedNeighbour.String()+` lladdr 02:00:00:00:00:99 dev `+bedUplink); err != nil {
		return nil, err
	}
	taps := [2]string{"vm-a", "vm-b"}
	if way == networkPlain {
		err = shell(ctx, `ip link add `+bedBridge+` type bridge
			ip address add 10.9.0.1/24 dev `+bedBridge+`
			for tap in vm-a vm-b; do ip tuntap add dev $tap mode tap; ip link set $tap master `+bedBridge+` up; done
			ip link set `+bedBridge+` up
			echo 1 >/proc/sys/net/ipv4/ip_forward
			nft 'table ip plain { chain out { type nat hook postrouting priority srcnat; ip saddr 10.9.0.0/24 oifname != "`+bedBridge+`" masquerade; }; }'`)
	} else {
		taps, err = b.guard(ctx)
	}
	if err != nil {
		return nil, err
	}
	if way == networkUngated {
		if err := shell(ctx, "tc qdisc del dev "+bedBridge+" clsact"); err != nil {
			return nil, err
		}
	}
	for i, tap := range taps {
		if b.guests[i], err = openTap(tap); err != nil {
			return nil, err
		}
	}
	b.uplink, err = openTap(bedUplink)
	return b, err
}

// guard makes the network as an agent does, and returns the names of the taps.
func (b *networkBed) guard(ctx context.Context) (names [2]string, err error) {
	if b.kernel, err = kernel.New(); err != nil {
		return names, err
	}
	cfg := netplug.DefaultConfig()
	cfg.Kernel, cfg.Logger = b.kernel, slog.New(slog.NewTextHandler(io.Discard, nil))
	if b.plug, err = netplug.New(cfg); err != nil {
		return names, err
	}
	want := netplug.Want{
		Bridges:        []netplug.Bridge{{Name: bedBridge, Address: netip.MustParsePrefix("10.9.0.1/24"), NAT: true}},
		Protected:      []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("198.51.100.0/24")},
		MaxConnections: 16384,
	}
	for i, vm := range []string{"a", "b"} {
		names[i] = netplug.TapName("default", vm, "default")
		want.Taps = append(want.Taps, netplug.Tap{
			Name: names[i], Namespace: "default", VM: vm, Interface: "default", Bridge: bedBridge,
			MAC: bedMACs[i], Address: bedAddresses[i], MACSpoofCheck: true, IPSpoofCheck: true,
		})
	}
	_, err = b.plug.Set(ctx, want)
	return names, err
}

func (b *networkBed) close() {
	for _, file := range []*os.File{b.guests[0], b.guests[1], b.uplink} {
		_ = file.Close() // one that was not opened says so
	}
	if b.plug != nil {
		_ = b.plug.Close()
	}
	if b.kernel != nil {
		_ = b.kernel.Close()
	}
}

// inside is a packet from the first guest to the second.
func (b *networkBed) inside() []byte {
	return udpFrame(bedMACs[0], bedMACs[1], bedAddresses[0], bedAddresses[1])
}

// outside is a packet from the first guest to the hosts' network.
func (b *networkBed) outside() ([]byte, error) {
	bridge, err := net.InterfaceByName(bedBridge)
	if err != nil {
		return nil, fmt.Errorf("find the bridge: %w", err)
	}
	return udpFrame(bedMACs[0], bridge.HardwareAddr, bedAddresses[0], bedNeighbour), nil
}

// openTap opens the far end of a tap.
func openTap(name string) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/net/tun: %w", err)
	}
	request, err := unix.NewIfreq(name)
	if err == nil {
		request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open tap %s: %w", name, err), unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), name), nil
}

func shell(ctx context.Context, script string) error {
	if out, err := exec.CommandContext(ctx, "sh", "-ec", script).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", script, err, strings.TrimSpace(string(out)))
	}
	return nil
}
