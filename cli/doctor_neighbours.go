package cli

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"virtmesh/agent/host/network"
)

// neighbours are programs that filter the host's packets or manage its interfaces, and
// that can cut guests or hosts off. act asks the program; matters judges its answer.
func neighbours() []struct {
	name    string
	act     []string
	matters func(ctx context.Context, answer string) bool
} {
	allowsGuests := func(answer string) bool { return strings.Contains(answer, network.PodBridge) }
	return []struct {
		name    string
		act     []string
		matters func(ctx context.Context, answer string) bool
	}{
		{"ufw", []string{"ufw", "status"}, func(_ context.Context, answer string) bool {
			return strings.Contains(answer, "Status: active") && !allowsGuests(answer)
		}},
		{"firewalld", []string{"firewall-cmd", "--state"}, func(ctx context.Context, answer string) bool {
			zone := runProgram(ctx, "firewall-cmd", "--get-zone-of-interface="+network.PodBridge)
			return strings.Contains(answer, "running") && !strings.Contains(answer, "not running") && !strings.Contains(zone, "trusted")
		}},
		{"a FORWARD policy of DROP, as Docker sets it", []string{"iptables", "-S"}, func(_ context.Context, answer string) bool {
			return strings.Contains(answer, "-P FORWARD DROP") && !allowsGuests(answer)
		}},
		{"NetworkManager", []string{"nmcli", "-t", "-f", "RUNNING", "general"}, func(_ context.Context, answer string) bool {
			return strings.TrimSpace(answer) == "running" && !leftAlone("/etc/NetworkManager/conf.d")
		}},
	}
}

// checkNeighbours warns of firewalls and network managers that do not know of the mesh.
func checkNeighbours(ctx context.Context) finding {
	const check = "other firewalls"
	var found []string
	for _, n := range neighbours() {
		if n.matters(ctx, runProgram(ctx, n.act[0], n.act[1:]...)) {
			found = append(found, n.name)
		}
	}
	if len(found) == 0 {
		return finding{check, passed, "none in the way", ""}
	}
	return finding{check, warning, "found " + strings.Join(found, ", "),
		"they can cut off guests on " + network.PodBridge + " and other hosts: section \"Other firewalls\" of docs/install.md has the rules to add"}
}

// runProgram returns the standard output of a program, "" if it is missing or fails.
func runProgram(ctx context.Context, program string, args ...string) string {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, program, args...).Output()
	if err != nil {
		return ""
	}
	return string(out)
}

// leftAlone reports whether a file of NetworkManager's configuration names the bridge of
// guests.
func leftAlone(dir string) bool {
	files, _ := filepath.Glob(filepath.Join(dir, "*.conf"))
	for _, file := range files {
		if text, err := os.ReadFile(file); err == nil && strings.Contains(string(text), network.PodBridge) {
			return true
		}
	}
	return false
}

// checkFirmware looks for the firmware of guests with EFI, where distributions put it.
func checkFirmware(context.Context) finding {
	for _, pattern := range []string{"/usr/share/OVMF/OVMF_CODE*", "/usr/share/edk2/ovmf/OVMF_CODE*", "/usr/share/qemu/ovmf-*", "/usr/share/edk2/x64/OVMF_CODE*"} {
		if found, _ := filepath.Glob(pattern); len(found) > 0 {
			return finding{"ovmf", passed, filepath.Dir(found[0]), ""}
		}
	}
	return finding{"ovmf", warning, "not installed: machines with EFI cannot start", "apt-get install ovmf"}
}
