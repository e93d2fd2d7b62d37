package doctor

import (
	"fmt"
	"net/netip"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"virtmesh/agent/host/network"
)

// checkNeighbours warns of firewalls and network managers that do not know of the mesh.
func checkNeighbours(f Facts) []Finding {
	const check = "other firewalls"
	n := f.Neighbours
	allowsGuests := func(rules string) bool { return strings.Contains(rules, network.PodBridge) }
	var found []string
	if strings.Contains(n.UFW, "Status: active") && !allowsGuests(n.UFW) {
		found = append(found, "ufw")
	}
	if strings.TrimSpace(n.FirewalldState) == "running" && !strings.Contains(n.FirewalldZone, "trusted") {
		found = append(found, "firewalld")
	}
	drops := strings.Contains(n.IPTables, "-P FORWARD DROP")
	if drops && !allowsGuests(n.IPTables) {
		found = append(found, "a FORWARD policy of DROP, as Docker sets it")
	}
	if drops && n.BridgeFrames && len(f.Config.Network.Bridges) > 0 {
		found = append(found, "br_netfilter, which drops frames within bridges of second networks too")
	}
	if n.NetworkManager && !n.NetworkManagerLeavesUsAlone {
		found = append(found, "NetworkManager")
	}
	if len(found) == 0 {
		return pass(check, "none in the way")
	}
	finding := warn(check, "found "+strings.Join(found, ", "),
		"they can cut off guests on "+network.PodBridge+" and other hosts: section \"Other firewalls\" of docs/install.md has the rules to add")
	if len(found) == 1 && found[0] == "NetworkManager" {
		return repairedBy(finding, Repair{
			Files:    []File{{"/etc/NetworkManager/conf.d/virtmesh.conf", "[keyfile]\nunmanaged-devices=interface-name:" + network.PodBridge + ";interface-name:vm-*;interface-name:vl-*\n"}},
			Commands: [][]string{{"systemctl", "reload", "NetworkManager"}},
		})
	}
	return finding
}

// guestLinks are names of interfaces as the agent gives them.
func guestLinks() []string { return []string{network.PodBridge, "vm-0", "vl-0"} }

// checkNetworkd warns of a file of systemd-networkd that applies to the interfaces of guests:
// networkd would take the addresses and bridges of the agent away.
func checkNetworkd(f Facts) []Finding {
	const check = "systemd-networkd"
	if !f.Neighbours.Networkd {
		return nil
	}
	files := slices.Clone(f.Neighbours.NetworkFiles)
	slices.SortStableFunc(files, func(a, b NetworkFile) int { return strings.Compare(filepath.Base(a.Path), filepath.Base(b.Path)) })
	for _, link := range guestLinks() {
		for _, file := range files {
			if !file.matches(link) {
				continue
			}
			if !strings.Contains(file.Text, "\nUnmanaged=yes") {
				return repairedBy(
					warn(check, fmt.Sprintf("%s applies to %s, which the agent configures", file.Path, link), "install the package, or write the file that it has: --fix does"),
					Repair{
						Files:    []File{{"/etc/systemd/network/00-virtmesh.network", "[Match]\nName=" + network.PodBridge + " vm-* vl-*\n\n[Link]\nUnmanaged=yes\n"}},
						Commands: [][]string{{"networkctl", "reload"}},
					})
			}
			break // the first that matches is the one that applies
		}
	}
	return pass(check, "leaves the interfaces of guests alone")
}

// matches reports whether a .network file applies to an Ethernet interface of a name. Only
// the conditions on names and types are read: a file with others, such as an address of
// hardware, is not meant for interfaces that come and go.
func (f NetworkFile) matches(link string) bool {
	conditions := map[string][]string{}
	section := ""
	for line := range strings.Lines(f.Text) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "[") {
			section = line
		} else if key, value, ok := strings.Cut(line, "="); ok && section == "[Match]" && !strings.HasPrefix(line, "#") && !strings.HasPrefix(line, ";") {
			conditions[strings.TrimSpace(key)] = append(conditions[strings.TrimSpace(key)], strings.Fields(value)...)
		}
	}
	if len(conditions) == 0 {
		return false // networkd ignores such a file
	}
	anyOf := func(key string, fits func(pattern string) bool) bool {
		patterns, there := conditions[key]
		delete(conditions, key)
		return !there || slices.ContainsFunc(patterns, fits)
	}
	named := anyOf("Name", func(pattern string) bool { ok, err := path.Match(pattern, link); return ok && err == nil })
	typed := anyOf("Type", func(pattern string) bool { return pattern == "ether" || pattern == "*" })
	return named && typed && len(conditions) == 0
}

// checkRoutes warns of networks of the host that overlap with the range of guests: guests do
// not reach them, and the host may not reach its guests.
func checkRoutes(f Facts) []Finding {
	const check = "guests' addresses"
	guests, err := netip.ParsePrefix(f.Config.Network.PodCIDR)
	if err != nil {
		return nil // the configuration's own check says it
	}
	remedy := "choose another range, free in your networks, with 'virtmesh agent init --guest-network RANGE'; a host that joins takes the range of its mesh, and 'agent join' compares that with its routes"
	if f.Member {
		remedy = "the range of a mesh cannot change: give the other network another range, or make a new mesh with 'virtmesh agent init --guest-network RANGE'"
	}
	within, around := network.Overlap(guests.Masked(), f.Routes)
	switch {
	case len(within) > 0:
		return warn(check, fmt.Sprintf("this host has %s on %s, within %s: guests do not reach it, and the host may be cut off from it", within[0].Destination, within[0].Device, guests), remedy)
	case len(around) > 0:
		return warn(check, fmt.Sprintf("%s is a part of %s, which this host reaches by %s: nothing there may use it", guests, around[0].Destination, around[0].Device), remedy)
	}
	return pass(check, guests.String())
}

// checkNameServers warns of programs that take DNS queries at every address: the agent could
// not answer its guests at theirs.
func checkNameServers(f Facts) []Finding {
	const check = "port 53"
	if len(f.NameServers) == 0 {
		return pass(check, "free for guests' queries")
	}
	return warn(check, "taken at every address"+strings.Join(f.NameServers, ","),
		"guests get no answers from the mesh's name server: let the other one listen on its own addresses only (bind-interfaces of dnsmasq, listen-on of named, interface of unbound)")
}
