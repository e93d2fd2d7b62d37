package lab

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"strings"
)

// ip runs iproute2, which every lab machine has; the error carries what it
// printed.
func ip(ctx context.Context, args ...string) error {
	out, err := exec.CommandContext(ctx, "ip", args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

func linkExists(ctx context.Context, name string) bool {
	return exec.CommandContext(ctx, "ip", "link", "show", "dev", name).Run() == nil
}

// deleteLink removes the interface, if there is one. The kernel may remove it at the same
// time: it clears a network namespace, and with it both ends of every cable that leads into
// it, some time after the last process in it ended.
func deleteLink(ctx context.Context, name string) error {
	if !linkExists(ctx, name) {
		return nil
	}
	err := ip(ctx, "link", "delete", name)
	if err != nil && ctx.Err() == nil && !linkExists(ctx, name) {
		return nil
	}
	return err
}

// labNetwork is the network of the labs with this number.
func labNetwork(number int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 201, byte(number), 0}), 24)
}

// networkUsers returns the interfaces of this machine that have an address in a lab's
// network, by the number of the network.
func networkUsers(ctx context.Context) (map[int][]string, error) {
	out, err := exec.CommandContext(ctx, "ip", "-json", "-4", "address").Output()
	if err != nil {
		return nil, fmt.Errorf("list this machine's addresses: %w", err)
	}
	var links []struct {
		Name      string `json:"ifname"`
		Addresses []struct {
			Local netip.Addr `json:"local"`
		} `json:"addr_info"`
	}
	if err := json.Unmarshal(out, &links); err != nil {
		return nil, fmt.Errorf("list this machine's addresses: %w", err)
	}
	users := map[int][]string{}
	for _, link := range links {
		for _, a := range link.Addresses {
			for n := range maxNetworks {
				if labNetwork(n).Contains(a.Local) {
					users[n] = append(users[n], link.Name)
				}
			}
		}
	}
	return users, nil
}

// maxNetworks is how many networks labs choose from.
const maxNetworks = 256

// freeNetwork finds an N for which no address of this machine lies in
// 10.201.N.0/24.
func freeNetwork(ctx context.Context) (int, error) {
	users, err := networkUsers(ctx)
	if err != nil {
		return 0, err
	}
	for n := range maxNetworks {
		if len(users[n]) == 0 {
			return n, nil
		}
	}
	return 0, fmt.Errorf("all %d lab networks (10.201.N.0/24) are in use on this machine", maxNetworks)
}

// checkNetwork returns an error if the lab's network has another user: a lab that was
// made while this one's bridges were gone, as after a restart of the machine.
func (l *Lab) checkNetwork(ctx context.Context) error {
	users, err := networkUsers(ctx)
	if err != nil {
		return err
	}
	for _, name := range users[l.state.Network] {
		if name != l.bridge() {
			return fmt.Errorf("this lab's network %s is in use by %s, perhaps another lab; end that, or end this lab and start a new one",
				labNetwork(l.state.Network), name)
		}
	}
	return nil
}

// ensureBridges makes the lab's two networks: the hosts' own, with this
// machine as its first address, and one for guests only.
func (l *Lab) ensureBridges(ctx context.Context) error {
	if err := l.checkNetwork(ctx); err != nil {
		return err
	}
	for _, bridge := range []string{l.bridge(), l.guestBridge()} {
		if !linkExists(ctx, bridge) {
			// An address of its own: else the bridge takes the lowest of its ports',
			// and hosts cannot reach this machine for half a minute after the
			// power of the host with that one goes.
			if err := ip(ctx, "link", "add", bridge, "address", fixedMAC(bridge), "type", "bridge", "forward_delay", "0"); err != nil {
				return err
			}
		}
		if err := ip(ctx, "link", "set", bridge, "up"); err != nil {
			return err
		}
	}
	return ip(ctx, "address", "replace", l.gateway()+"/24", "dev", l.bridge())
}

// fixedMAC is the hardware address of the interface with this name, now and later.
func fixedMAC(name string) string {
	sum := sha256.Sum256([]byte(name))
	return net.HardwareAddr{0x02, sum[0], sum[1], sum[2], sum[3], sum[4]}.String()
}

func (l *Lab) removeBridges(ctx context.Context) error {
	for _, bridge := range []string{l.bridge(), l.guestBridge()} {
		if err := deleteLink(ctx, bridge); err != nil {
			return err
		}
	}
	return nil
}

// cable is one connection of a host: its end in the host, and the machine's
// end, plugged into a bridge.
type cable struct {
	inside, outside, bridge string
}

// guestUplink is the host's second interface, for guests on networks that
// span hosts.
const guestUplink = "eth1"

func (l *Lab) cables(h Host) []cable {
	return []cable{
		{"eth0", fmt.Sprintf("vml-%s-%d", l.state.ID, h.Index), l.bridge()},
		{guestUplink, fmt.Sprintf("vmg-%s-%d", l.state.ID, h.Index), l.guestBridge()},
	}
}

// plugCables connects the network namespace of process pid to the lab's networks. A
// host's cards keep their addresses when its power is off, as real ones do: with new
// ones its neighbours would not reach it until they forgot the old.
func (l *Lab) plugCables(ctx context.Context, h Host, pid int) error {
	if err := l.unplugCables(ctx, h); err != nil {
		return err
	}
	for _, c := range l.cables(h) {
		for _, args := range [][]string{
			{"link", "add", c.outside, "type", "veth", "peer", "name", c.inside, "address", fixedMAC(c.outside), "netns", fmt.Sprint(pid)},
			{"link", "set", c.outside, "master", c.bridge},
			{"link", "set", c.outside, "up"},
		} {
			if err := ip(ctx, args...); err != nil {
				return err
			}
		}
	}
	return nil
}

// unplugCables removes the host's cables, as far as there are any.
func (l *Lab) unplugCables(ctx context.Context, h Host) error {
	for _, c := range l.cables(h) {
		if err := deleteLink(ctx, c.outside); err != nil {
			return err
		}
	}
	return nil
}

// Cut disconnects the host from the lab's networks; the host keeps running.
func (l *Lab) Cut(ctx context.Context, h Host) error { return l.setCables(ctx, h, "down") }

// Heal reconnects a host that was cut off.
func (l *Lab) Heal(ctx context.Context, h Host) error { return l.setCables(ctx, h, "up") }

func (l *Lab) setCables(ctx context.Context, h Host, state string) error {
	for _, c := range l.cables(h) {
		if err := ip(ctx, "link", "set", c.outside, state); err != nil {
			return err
		}
	}
	return nil
}
