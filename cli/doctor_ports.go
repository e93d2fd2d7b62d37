package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"virtmesh/agent"
)

// loadHostConfig reads the configuration of a host; a machine that is not in a mesh yet
// has the defaults.
func loadHostConfig(path string) (agent.Config, error) {
	config, err := agent.LoadConfig(path)
	if errors.Is(err, fs.ErrNotExist) {
		return agent.DefaultConfig(), nil
	}
	return config, err
}

// portChecks check the ports of the configuration. It has none if the configuration is
// wrong, which checkPaths reports.
func portChecks(configPath string) []func(context.Context) finding {
	config, err := loadHostConfig(configPath)
	if err != nil {
		return nil
	}
	checks := []func(context.Context) finding{
		checkPort("mesh port", config.MeshListen, false),
		checkPort("gossip port", ":"+strconv.Itoa(config.GossipPort), true),
	}
	if config.MetricsListen != "" {
		checks = append(checks, checkPort("metrics port", config.MetricsListen, false))
	}
	return checks
}

// checkPort checks that a TCP address is free or this host's agent listens there, and
// the UDP address of the same number too if datagrams are used.
func checkPort(what, address string, datagrams bool) func(context.Context) finding {
	return func(ctx context.Context) finding {
		_, port, err := net.SplitHostPort(address)
		if err != nil {
			return finding{what, failed, err.Error(), "correct the address in agent.yaml"}
		}
		networks := []string{"tcp"}
		if datagrams {
			networks = append(networks, "udp")
		}
		detail := port
		for _, network := range networks {
			err := listenOnce(ctx, network, address)
			if err == nil {
				continue
			}
			user, ours := portUser(network, port)
			if !ours {
				return finding{what, failed, fmt.Sprintf("%s %s is in use%s (%v)", port, network, user, err),
					"free the port, or choose another: before the host joins with a flag, afterwards in agent.yaml"}
			}
			detail = port + " is in use by this host's agent"
		}
		return finding{what, passed, detail, ""}
	}
}

func listenOnce(ctx context.Context, network, address string) error {
	var config net.ListenConfig
	if network == "udp" {
		packets, err := config.ListenPacket(ctx, network, address)
		if err != nil {
			return err
		}
		return packets.Close()
	}
	listener, err := config.Listen(ctx, network, address)
	if err != nil {
		return err
	}
	return listener.Close()
}

// portUser names the process that has a port of this machine, as " by NAME (pid N)", ""
// if it cannot be found, and reports whether it is an agent.
func portUser(network, port string) (user string, agents bool) {
	sockets := map[string]bool{}
	for _, table := range []string{network, network + "6"} {
		for _, inode := range socketsAt("/proc/net/"+table, network == "tcp", port) {
			sockets["socket:["+inode+"]"] = true
		}
	}
	open, _ := filepath.Glob("/proc/[0-9]*/fd/[0-9]*")
	for _, fd := range open {
		if target, err := os.Readlink(fd); err != nil || !sockets[target] {
			continue
		}
		process := filepath.Dir(filepath.Dir(fd))
		line, err := os.ReadFile(filepath.Join(process, "cmdline"))
		if err != nil {
			continue
		}
		args := strings.Split(strings.TrimRight(string(line), "\x00"), "\x00")
		return fmt.Sprintf(" by %s (pid %s)", filepath.Base(args[0]), filepath.Base(process)), isAgent(args)
	}
	return "", false
}

// isAgent reports whether a command line is the agent's.
func isAgent(args []string) bool {
	i := slices.Index(args, "agent")
	return i > 0 && i+1 < len(args) && args[i+1] == "run" && filepath.Base(args[0]) == "virtmesh"
}

// socketsAt returns the inodes of the sockets with a local port in a table of the kernel,
// of TCP only those that listen.
func socketsAt(table string, listening bool, port string) []string {
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return nil
	}
	data, err := os.ReadFile(table)
	if err != nil {
		return nil
	}
	const local, state, inode, listen = 1, 3, 9, "0A" // fields of a line, see proc(5)
	var found []string
	for line := range strings.Lines(string(data)) {
		fields := strings.Fields(line)
		if len(fields) > inode && strings.HasSuffix(fields[local], fmt.Sprintf(":%04X", number)) && (!listening || fields[state] == listen) {
			found = append(found, fields[inode])
		}
	}
	return found
}
