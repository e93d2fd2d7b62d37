package lab

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net"
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

// freeNetwork finds an N for which no address of this machine lies in
// 10.201.N.0/24.
func freeNetwork(ctx context.Context) (int, error) {
	out, err := exec.CommandContext(ctx, "ip", "-json", "-4", "address").Output()
	if err != nil {
		return 0, fmt.Errorf("list this machine's addresses: %w", err)
	}
	var links []struct {
		Addresses []struct {
			Local string `json:"local"`
		} `json:"addr_info"`
	}
	if err := json.Unmarshal(out, &links); err != nil {
		return 0, fmt.Errorf("list this machine's addresses: %w", err)
	}
	used := map[string]bool{}
	for _, link := range links {
		for _, a := range link.Addresses {
			used[a.Local] = true
		}
	}
	for n := 0; n < 256; n++ {
		if !used[fmt.Sprintf("10.201.%d.1", n)] {
			return n, nil
		}
	}
	return 0, fmt.Errorf("all 256 lab networks (10.201.N.0/24) are in use on this machine")
}

// ensureBridges makes the lab's two networks: the hosts' own, with this
// machine as its first address, and one for guests only.
func (l *Lab) ensureBridges(ctx context.Context) error {
	for _, bridge := range []string{l.bridge(), l.guestBridge()} {
		if !linkExists(ctx, bridge) {
			// An address of its own: else the bridge takes the lowest of its ports',
			// and hosts cannot reach this machine for half a minute after the
			// power of the host with that one goes.
			if err := ip(ctx, "link", "add", bridge, "address", bridgeMAC(bridge), "type", "bridge", "forward_delay", "0"); err != nil {
				return err
			}
		}
		if err := ip(ctx, "link", "set", bridge, "up"); err != nil {
			return err
		}
	}
	return ip(ctx, "address", "replace", l.gateway()+"/24", "dev", l.bridge())
}

// bridgeMAC is the same for a bridge of the same name at all times.
func bridgeMAC(name string) string {
	sum := sha256.Sum256([]byte(name))
	return net.HardwareAddr{0x02, sum[0], sum[1], sum[2], sum[3], sum[4]}.String()
}

func (l *Lab) removeBridges(ctx context.Context) error {
	for _, bridge := range []string{l.bridge(), l.guestBridge()} {
		if linkExists(ctx, bridge) {
			if err := ip(ctx, "link", "delete", bridge); err != nil {
				return err
			}
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

// plugCables connects the network namespace of process pid to the lab's networks.
func (l *Lab) plugCables(ctx context.Context, h Host, pid int) error {
	if err := l.unplugCables(ctx, h); err != nil {
		return err
	}
	for _, c := range l.cables(h) {
		for _, args := range [][]string{
			{"link", "add", c.outside, "type", "veth", "peer", "name", c.inside, "netns", fmt.Sprint(pid)},
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
		if linkExists(ctx, c.outside) {
			if err := ip(ctx, "link", "delete", c.outside); err != nil {
				return err
			}
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
