package lab

import (
	"context"
	"encoding/json"
	"fmt"
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

// ensureBridge makes the lab's bridge, with this machine as its first address.
func (l *Lab) ensureBridge(ctx context.Context) error {
	if !linkExists(ctx, l.bridge()) {
		if err := ip(ctx, "link", "add", l.bridge(), "type", "bridge", "forward_delay", "0"); err != nil {
			return err
		}
	}
	if err := ip(ctx, "address", "replace", l.gateway()+"/24", "dev", l.bridge()); err != nil {
		return err
	}
	return ip(ctx, "link", "set", l.bridge(), "up")
}

// veth is the machine's end of the host's cable.
func (l *Lab) veth(h Host) string { return fmt.Sprintf("vml-%s-%d", l.state.ID, h.Index) }

// plug connects the bridge to the network namespace of process pid, where the
// other end of the cable is called eth0.
func (l *Lab) plug(ctx context.Context, h Host, pid int) error {
	if linkExists(ctx, l.veth(h)) {
		if err := ip(ctx, "link", "delete", l.veth(h)); err != nil {
			return err
		}
	}
	if err := ip(ctx, "link", "add", l.veth(h), "type", "veth", "peer", "name", "eth0", "netns", fmt.Sprint(pid)); err != nil {
		return err
	}
	if err := ip(ctx, "link", "set", l.veth(h), "master", l.bridge()); err != nil {
		return err
	}
	return ip(ctx, "link", "set", l.veth(h), "up")
}

// Cut disconnects the host from the lab's network; the host keeps running.
func (l *Lab) Cut(ctx context.Context, h Host) error {
	return ip(ctx, "link", "set", l.veth(h), "down")
}

// Heal reconnects a host that was cut off.
func (l *Lab) Heal(ctx context.Context, h Host) error {
	return ip(ctx, "link", "set", l.veth(h), "up")
}
