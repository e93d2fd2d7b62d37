package doctor

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"virtmesh/agent"
)

// readPorts tries to listen on each address of the agent.
func readPorts(ctx context.Context, config agent.Config) []Port {
	ports := []Port{
		{What: "mesh port", Address: config.MeshListen},
		{What: "gossip port", Address: ":" + strconv.Itoa(config.GossipPort), Datagrams: true},
	}
	if config.MetricsListen != "" {
		ports = append(ports, Port{What: "metrics port", Address: config.MetricsListen})
	}
	for i := range ports {
		ports[i].read(ctx)
	}
	return ports
}

// read finds out whether a TCP address is free, and the UDP address of the same number too
// if datagrams are used.
func (p *Port) read(ctx context.Context) {
	networks := []string{"tcp"}
	if p.Datagrams {
		networks = append(networks, "udp")
	}
	for _, network := range networks {
		if p.Err = listenOnce(ctx, network, p.Address); p.Err == nil {
			continue
		}
		p.Network = network
		if _, port, err := net.SplitHostPort(p.Address); err == nil {
			p.User, p.Ours = socketUser(network, port, false)
		}
		if !p.Ours {
			return
		}
	}
}

// readNameServers names the programs that take DNS queries at every address.
func readNameServers() []string {
	var found []string
	for _, network := range []string{"udp", "tcp"} {
		if user, ours := socketUser(network, "53", true); user != "" && !ours && !slices.Contains(found, user) {
			found = append(found, user)
		}
	}
	return found
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

// socketUser names the process that has a port of this machine, as " by NAME (pid N)", ""
// if it cannot be found, and reports whether it is an agent. With everywhere, only sockets
// at every address count.
func socketUser(network, port string, everywhere bool) (user string, agents bool) {
	sockets := map[string]bool{}
	for _, table := range []string{network, network + "6"} {
		for _, inode := range socketsAt("/proc/net/"+table, network == "tcp", everywhere, port) {
			sockets["socket:["+inode+"]"] = true
		}
	}
	if len(sockets) == 0 {
		return "", false
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
// of TCP only those that listen, and with everywhere only those at every address.
func socketsAt(table string, listening, everywhere bool, port string) []string {
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
		if len(fields) <= inode || (listening && fields[state] != listen) {
			continue
		}
		address, own, _ := strings.Cut(fields[local], ":")
		if own == fmt.Sprintf("%04X", number) && (!everywhere || strings.Trim(address, "0") == "") {
			found = append(found, fields[inode])
		}
	}
	return found
}
