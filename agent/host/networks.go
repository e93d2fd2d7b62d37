package host

import (
	"fmt"
	"os"
	"path/filepath"

	k8scni "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	corev1 "k8s.io/api/core/v1"

	"virtmesh/agent/host/network"
	"virtmesh/agent/objects"
	"virtmesh/netplug"
	"virtmesh/netplug/guestservices"
	"virtmesh/netplug/kernel"
	"virtmesh/storage/durable"
)

// guestServicesDir is the folder that an agent with this RunDir shares with the process that
// answers guests. It is not in RunDir, which is closed to all but root.
func guestServicesDir(runDir string) string { return filepath.Clean(runDir) + "-guests" }

// EndGuestServices has the process end that answers guests for an agent with this RunDir, on
// a host that leaves its mesh.
func EndGuestServices(runDir string) error { return guestservices.Forget(guestServicesDir(runDir)) }

// guestServices prepares the way to the process that answers guests, which outlives the agent.
func guestServices(deps Deps) (*guestservices.Client, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	account, err := guestservices.FindAccount()
	if err != nil {
		return nil, err
	}
	log := deps.Logger.With("part", "guest services")
	launcher := guestservices.Launcher{Dir: guestServicesDir(deps.Self.RunDir), Account: account, Logger: log, Stderr: os.Stderr}
	return guestservices.NewClient(guestservices.ClientConfig{
		Dir: launcher.Dir, Account: account, Build: guestservices.BuildOf(deps.Self.Facts.Version, guestservices.Self), Program: program,
		WriteFile: durable.WriteFile, Start: launcher.Start, Logger: log, Registerer: deps.Metrics,
	})
}

// openNetwork prepares the network of this host's guests.
func (h *Host) openNetwork(config NetworkConfig, deps Deps) error {
	link, err := kernel.New()
	if err != nil {
		return fmt.Errorf("reach the kernel's network: %w", err)
	}
	cfg := netplug.DefaultConfig()
	cfg.Kernel, cfg.Logger, cfg.Registerer = link, deps.Logger.With("part", "netplug"), deps.Metrics
	if cfg.Services, err = guestServices(deps); err != nil {
		return err
	}
	plug, err := netplug.New(cfg)
	if err != nil {
		return err
	}
	h.onClose(func() { plug.Close() })
	bridges := make([]network.HostBridge, 0, len(config.Bridges))
	for _, bridge := range config.Bridges {
		bridges = append(bridges, network.HostBridge(bridge))
	}
	h.network, err = network.New(network.Config{
		Host: deps.Self.Name, Subnet: deps.Subnet, Domain: config.Domain,
		LeaseFile:      filepath.Join(deps.Self.StateDir, "leases.json"),
		AttachmentFile: filepath.Join(deps.Self.StateDir, "attachments.json"), Bridges: bridges,
		Protection: config.protection(deps.Mesh), Router: config.Router, ConnectionsPerGuest: config.ConnectionsPerGuest, Subscribe: deps.Mesh.Subscribe,
		Instances: h.instances, Claims: deps.Claims, Networks: objects.For[*k8scni.NetworkAttachmentDefinition](deps.Cache),
		Plug: plug, Logger: deps.Logger.With("part", "hostnet"), FilterLost: tellFilterLost(deps),
	})
	return err
}

// tellFilterLost returns a function that records in an event of this host's Node that
// something else took the guests' packet filter away.
func tellFilterLost(deps Deps) func() {
	nodes := objects.For[*corev1.Node](deps.Cache)
	return func() {
		if node, ok := nodes.Get(objects.Key{Name: deps.Self.Name}); ok {
			deps.Recorder.Event(node, corev1.EventTypeWarning, "PacketFilterChanged",
				"Something else on the host changed or removed the packet filter of the guests (table virtmesh of nftables); virtmesh loads it again")
		}
	}
}
