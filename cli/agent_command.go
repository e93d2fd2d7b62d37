package cli

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/urfave/cli/v2"

	"virtmesh/agent"
	"virtmesh/agent/fault"
	"virtmesh/agent/host"
	"virtmesh/agent/host/network"
	"virtmesh/agent/hostname"
	"virtmesh/agent/membership"
	"virtmesh/agent/port/admin"
	"virtmesh/netplug"
)

func agentCommand() *cli.Command {
	return &cli.Command{
		Name: "agent", Usage: "make this machine a host of a mesh, run its agent, take it out",
		Subcommands: []*cli.Command{
			{Name: "init", Usage: "make a new mesh with this machine as its first host", Action: agentInit,
				Flags: append(hostFlags(), &cli.StringFlag{Name: "guest-network", Usage: "the `RANGE` of the addresses of guests on all hosts, a /24 for each host; it must be free in your networks, and cannot change; not with --role witness (default: " + netplug.DefaultGuestNetwork + ")"},
					&cli.StringFlag{Name: "keyring-bundle", Usage: "write the recovery bundle of the mesh to the new `FILE`: with it and its passphrase the mesh can be recovered when all voters are lost, and the key of the mesh's CA is never in the mesh's state and backups"},
					passphraseFlag())},
			{Name: "join", Usage: "join this machine to a mesh", ArgsUsage: "ADDRESS",
				Description: "ADDRESS is the host[:port] of any host of the mesh; 'virtmesh token create' there prints the token.",
				Flags:       append(hostFlags(), joinTokenFlag()),
				Action:      agentJoin},
			{Name: "run", Usage: "run the agent until it is stopped; the systemd unit does this", Action: agentRun,
				Flags: []cli.Flag{configFlag(), &cli.StringFlag{Name: "log-level", Value: "info", Usage: "debug, info, warn or error"}}},
			shutdownGuestsCommand(),
			{Name: "leave", Usage: "hand this host's duties over and take it out of the mesh", Action: agentLeave,
				Description: "With --local, for a host that the mesh has removed: stop its agent first. Images and volumes stay; guests that still run go on.",
				Flags: []cli.Flag{configFlag(), yesFlag(),
					&cli.BoolFlag{Name: "local", Usage: "only delete this machine's identity, copy of the state and configuration, and tell nobody"}}},
			{Name: "resync", Usage: "delete this host's copy of the mesh's state, to fetch a new one from the other hosts",
				Description: "For a copy that is damaged, or that belongs to a group that a recovery has replaced. Stop the agent first.",
				Flags:       []cli.Flag{configFlag(), yesFlag()}, Action: agentResync},
			{Name: "backup", Usage: "write the mesh's state to a new file", ArgsUsage: "FILE",
				Description: "The state comes from the local agent. The file contains all Secrets, and the key of the mesh's CA until 'virtmesh status' says that only the voters hold it. It is encrypted once there is a recovery bundle ('virtmesh keyring bundle'), which then opens it.",
				Flags:       []cli.Flag{&cli.BoolFlag{Name: "plain", Usage: "do not encrypt the file"}}, Action: agentBackup},
			{Name: "recover", Usage: "make this host the only voter after a quorum was lost for good",
				Description: "Stop the agents first. Changes that the lost hosts had accepted and this host had not received are gone. The command refuses while another host reports a leader.",
				Flags: []cli.Flag{configFlag(), yesFlag(),
					&cli.BoolFlag{Name: "force", Usage: "do not ask the other hosts for a leader: if they have one, their agents stop when they meet this host, and what they changed meanwhile is lost"},
					&cli.StringFlag{Name: "backup", Usage: "take the state from `FILE`, when no copy is left"},
					&cli.StringFlag{Name: "keyring-bundle", Usage: "take the key of the mesh's CA from the recovery bundle `FILE`, when no voter is left that holds it, or when the backup is encrypted"},
					passphraseFlag()},
				Action: agentRecover},
		},
	}
}

func configFlag() cli.Flag {
	return &cli.StringFlag{Name: "config", Value: agent.DefaultConfigPath, Usage: "the agent's configuration"}
}

func yesFlag() cli.Flag { return &cli.BoolFlag{Name: "yes", Usage: "confirm the command"} }

// hostFlags describe a new host. Their values are written to the configuration file,
// where they can be changed later, except for the name.
func hostFlags() []cli.Flag {
	return []cli.Flag{
		configFlag(),
		&cli.StringFlag{Name: "name", Usage: "the host's name (default: the machine's)"},
		&cli.StringFlag{Name: "state-dir", Value: membership.DefaultStateDir, Usage: "where the host keeps identity, replica, images and volumes"},
		&cli.StringFlag{Name: "advertise", Usage: "the IP address other hosts reach this one by (default: that of the default route)"},
		&cli.IntFlag{Name: "port", Value: membership.DefaultMeshPort, Usage: "the mesh port (TCP)"},
		&cli.IntFlag{Name: "gossip-port", Value: membership.DefaultGossipPort, Usage: "the gossip port (TCP and UDP), the same on all hosts"},
		&cli.StringFlag{Name: "role", Value: host.RoleWorker, Usage: "worker, or witness: a host that votes and runs no guests, and needs neither libvirt nor QEMU"},
		&cli.StringFlag{Name: "zone", Usage: "the failure domain this host is in"},
		&cli.StringSliceFlag{Name: "pool", Usage: "a directory for volumes, `NAME=PATH[,shared]`; shared when every host mounts it"},
		&cli.StringSliceFlag{Name: "bridge", Usage: "a bridge for secondary networks, `NAME=UPLINK`; the uplink is an interface without addresses"},
		&cli.StringSliceFlag{Name: "insecure-registry", Usage: "a registry that is used without TLS, `HOST:PORT`"},
		&cli.StringFlag{Name: "acceleration", Value: "auto", Usage: "auto, kvm or tcg (emulation)"},
	}
}

// hostConfig turns the flags of init and join into a configuration.
func hostConfig(c *cli.Context) (agent.Config, error) {
	config := agent.DefaultConfig()
	name, err := hostName(c.String("name"), os.Hostname)
	if err != nil {
		return config, err
	}
	config.Name = name
	config.Advertise = c.String("advertise")
	if config.Advertise == "" {
		address, err := outboundAddress()
		if err != nil {
			return config, err
		}
		config.Advertise = address
	}
	config.StateDir = c.String("state-dir")
	config.Pools[0].Path = filepath.Join(config.StateDir, "pools", config.Pools[0].Name)
	for _, flag := range []string{"port", "gossip-port"} {
		if n := c.Int(flag); n < 1 || n > math.MaxUint16 {
			return config, fmt.Errorf("--%s must be at least 1 and at most %d, and not %d", flag, math.MaxUint16, n)
		}
	}
	config.MeshListen = fmt.Sprintf(":%d", c.Int("port"))
	config.GossipPort = c.Int("gossip-port")
	config.Zone = c.String("zone")
	if config.Role = c.String("role"); config.Role == host.RoleWitness {
		for _, flag := range []string{"pool", "bridge", "acceleration"} {
			if c.IsSet(flag) {
				return config, fmt.Errorf("--%s is for a host that runs guests, and a witness runs none", flag)
			}
		}
	}
	config.Hypervisor.Acceleration = c.String("acceleration")
	config.Images.InsecureRegistries = c.StringSlice("insecure-registry")
	for _, text := range c.StringSlice("pool") {
		name, path, ok := strings.Cut(text, "=")
		if !ok {
			return config, fmt.Errorf("--pool %q is not NAME=PATH", text)
		}
		path, shared := strings.CutSuffix(path, ",shared")
		config.Pools = append(config.Pools, host.PoolConfig{Name: name, Path: path, Shared: shared})
	}
	for _, text := range c.StringSlice("bridge") {
		name, uplink, ok := strings.Cut(text, "=")
		if !ok {
			return config, fmt.Errorf("--bridge %q is not NAME=UPLINK", text)
		}
		config.Network.Bridges = append(config.Network.Bridges, host.BridgeConfig{Name: name, Uplink: uplink})
	}
	return config, config.Validate()
}

// hostName returns the given name, or else the first label of the machine's name.
// Both are converted to lower case, since DNS ignores case.
func hostName(given string, machine func() (string, error)) (string, error) {
	name := strings.ToLower(given)
	if given == "" {
		full, err := machine()
		if err != nil {
			return "", fmt.Errorf("find this machine's name: %w; choose one with --name", err)
		}
		name, _, _ = strings.Cut(strings.ToLower(full), ".")
	}
	if err := hostname.Validate(name); err != nil {
		return "", fmt.Errorf("%w; choose another with --name", err)
	}
	return name, nil
}

// outboundAddress is the address that packets to other networks leave with. No
// packet is sent: connecting a UDP socket only chooses a route.
func outboundAddress() (string, error) {
	conn, err := net.Dial("udp4", "192.0.2.1:9")
	if err != nil {
		return "", errors.New("this machine has no default route; say with --advertise which address other hosts reach it by")
	}
	defer conn.Close()
	return conn.LocalAddr().(*net.UDPAddr).IP.String(), nil
}

func agentInit(c *cli.Context) error {
	config, err := hostConfig(c)
	if err != nil {
		return err
	}
	if config.Role == host.RoleWitness && c.IsSet("guest-network") {
		// The first host that runs guests sets the range.
		return fault.InField("--guest-network", "is not for a witness, which runs no guests").
			WithRemedy("make the mesh on a host that runs guests, and let this one join it with --role witness")
	}
	config.Network.PodCIDR = cmp.Or(c.String("guest-network"), config.Network.PodCIDR)
	if err := checkGuestNetwork(config, c.IsSet("guest-network")); err != nil {
		return err
	}
	bundle, err := askFirstBundle(c)
	if err != nil {
		return err
	}
	if err := membership.Init(config.MembershipConfig, config.File(c.String("config")), bundle.keep()); err != nil {
		return errors.Join(err, bundle.remove(config.StateDir))
	}
	if err := announceHost(c, fmt.Sprintf("%s is the first host of a new mesh", config.Name)); err != nil {
		return err
	}
	_, err = fmt.Fprintln(c.App.Writer, bundle.sentence())
	return err
}

// checkGuestNetwork returns an error if guests cannot have the range of a configuration on
// this machine. chosen says that a person has chosen the range.
func checkGuestNetwork(config agent.Config, chosen bool) error {
	if err := config.Validate(); err != nil {
		return fault.New(fault.Invalid, "%w", err)
	}
	if config.Role == host.RoleWitness {
		return nil // it runs none
	}
	guests, err := netip.ParsePrefix(config.Network.PodCIDR)
	if err != nil {
		return fault.New(fault.Invalid, "network.podCIDR: %w", err)
	}
	routes, err := network.HostRoutes()
	if err != nil {
		return err
	}
	return network.CheckRange(guests.Masked(), routes, chosen)
}

func agentJoin(c *cli.Context) error {
	if c.NArg() != 1 {
		return errors.New("name the address of one host of the mesh")
	}
	token, err := joinToken(c)
	if err != nil {
		return err
	}
	config, err := hostConfig(c)
	if err != nil {
		return err
	}
	address := c.Args().First()
	if _, _, err := net.SplitHostPort(address); err != nil {
		address = net.JoinHostPort(address, fmt.Sprint(membership.DefaultMeshPort))
	}
	fmt.Fprintf(c.App.ErrWriter, "asking %s to admit this machine\n", address)
	// The range of guests' addresses becomes a part of config while the machine joins.
	save := func(path string) error { return config.Save(path) } //nolint:gocritic // config.Save would save it as it is now
	file := membership.ConfigFile{Path: c.String("config"), Save: save}
	if err := membership.Join(c.Context, config.MembershipConfig, file, membership.Invitation{
		Address: address, Token: token, Version: Version,
		GuestNetwork: func(mesh string) (string, error) {
			config.Network.PodCIDR = cmp.Or(mesh, config.Network.PodCIDR)
			return config.Network.PodCIDR, checkGuestNetwork(config, true)
		},
	}); err != nil {
		return err
	}
	return announceHost(c, fmt.Sprintf("%s joined the mesh", config.Name))
}

// announceHost installs and starts the agent's service if systemd runs, and prints
// the outcome and the next command.
func announceHost(c *cli.Context, what string) error {
	started, err := startService(c.Context)
	if err != nil {
		return err
	}
	if started {
		_, err = fmt.Fprintf(c.App.Writer, "%s; its agent runs as the service virtmesh.\n", what)
	} else {
		_, err = fmt.Fprintf(c.App.Writer, "%s. Start its agent: virtmesh agent run\n", what)
	}
	return err
}

func agentRun(c *cli.Context) error {
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.String("log-level"))); err != nil {
		return fmt.Errorf("--log-level: %w", err)
	}
	log := slog.New(slog.NewTextHandler(c.App.ErrWriter, &slog.HandlerOptions{Level: level}))
	agent.SetLibraryLogger(log)
	config, err := agent.LoadConfig(c.String("config"))
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("this host belongs to no mesh (%s does not exist); use 'virtmesh agent init' or 'virtmesh agent join'", c.String("config"))
	}
	if err != nil {
		return err
	}
	// QEMU's user must be able to pass through the directories that the agent makes,
	// whatever umask the shell or the service that starts it has.
	syscall.Umask(0o022)
	options := agent.Options{Version: Version, ConfigPath: c.String("config"), Logger: log}
	a, err := agent.New(c.Context, config, options)
	if err == nil {
		err = a.Run(c.Context)
	}
	if errors.Is(err, membership.ErrExpelled) {
		return agent.Retire(c.Context, config, options)
	}
	return err
}

// agentLeave asks the local agent, whatever kubeconfig is set: a kubeconfig names any
// host of any mesh, and leaving cannot be undone without a token.
func agentLeave(c *cli.Context) error {
	if c.Bool("local") {
		return forgetMesh(c)
	}
	conn, err := connectLocal(c)
	if err != nil {
		return err
	}
	var status admin.Status
	if err := conn.mesh(c.Context, http.MethodGet, statusPath, nil, &status); err != nil {
		return err
	}
	if err := conn.mesh(c.Context, http.MethodPost, "/mesh/v1/leave", nil, nil); err != nil {
		return err
	}
	_, err = fmt.Fprintf(c.App.Writer, "%s, this host, has left the mesh\n", status.Host)
	return err
}

// forgetMesh makes a machine that the mesh has removed one that can join again.
func forgetMesh(c *cli.Context) error {
	if !c.Bool("yes") {
		return errors.New("this deletes the host's identity, its copy of the mesh's state and its configuration, and the mesh is not told; repeat with --yes if the mesh has removed this host")
	}
	config, err := agent.LoadConfig(c.String("config"))
	if errors.Is(err, os.ErrNotExist) {
		config, err = agent.DefaultConfig(), nil // what an interrupted 'agent init' leaves
	}
	if err != nil {
		return err
	}
	if err := errors.Join(host.EndGuestServices(config.RunDir), membership.Forget(config.MembershipConfig, c.String("config"))); err != nil {
		return err
	}
	_, err = fmt.Fprintln(c.App.Writer, "this machine belongs to no mesh any more; end guests that still run here ('virsh list') before it joins one")
	return err
}

// followedWarning is told after a recovery from the copy of a host that did not vote.
const followedWarning = "warning: this host did not vote, so its copy came from other hosts, and no voter confirms its newest part any more: a hostile host may have put something there. " +
	"If the disk of a voter is left, stop this agent, and recover there instead"

func agentRecover(c *cli.Context) error {
	if !c.Bool("yes") {
		return errors.New("this makes this host's copy of the mesh's state the only valid one; repeat with --yes when the other voters are lost for good")
	}
	config, err := agent.LoadConfig(c.String("config"))
	if err != nil {
		return err
	}
	bundle, err := openBundle(c)
	if err != nil {
		return err
	}
	recovered, err := recoverOrRestore(c.Context, config, c.String("backup"), membership.Recovery{Force: c.Bool("force"), Bundle: bundle})
	if err != nil {
		return err
	}
	if recovered.Followed {
		fmt.Fprintln(c.App.ErrWriter, followedWarning)
	}
	_, err = fmt.Fprintf(c.App.Writer, "this host is the only voter now, with %d records of revision %d, which have revision %d from now on.\nStart its agent. On every other host stop the agent, run 'virtmesh agent resync --yes' and start it again.\n", recovered.Keys, recovered.Copy, recovered.Revision)
	return err
}
