package agent

import (
	"context"
	"fmt"
	"path/filepath"

	k8scni "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"

	"virtmesh/agent/host/network"
	"virtmesh/agent/objects"
	"virtmesh/netplug"
	"virtmesh/netplug/kernel"
)

// openNetwork prepares the network of this host's guests, and claims the host's
// part of the default network.
func (h *host) openNetwork(ctx context.Context, a *Agent) error {
	ctx, cancel := context.WithTimeout(ctx, joinTimeout)
	defer cancel()
	subnet, err := claimSubnet(ctx, h.raft, h.config.Name, h.config.Network.PodCIDR)
	if err != nil {
		return err
	}
	link, err := kernel.New()
	if err != nil {
		return fmt.Errorf("reach the kernel's network: %w", err)
	}
	cfg := netplug.DefaultConfig()
	cfg.Kernel, cfg.Logger, cfg.Registerer = link, h.log.With("part", "netplug"), h.metrics
	plug, err := netplug.New(cfg)
	if err != nil {
		return err
	}
	a.onStop(func(context.Context) { plug.Close() })
	bridges := make([]network.HostBridge, 0, len(h.config.Network.Bridges))
	for _, bridge := range h.config.Network.Bridges {
		bridges = append(bridges, network.HostBridge(bridge))
	}
	h.network, err = network.New(network.Config{
		Host: h.config.Name, Subnet: subnet, Domain: h.config.Network.Domain,
		LeaseFile:      filepath.Join(h.config.StateDir, "leases.json"),
		AttachmentFile: filepath.Join(h.config.StateDir, "attachments.json"), Bridges: bridges,
		Protected: a.protectedAddresses, Subscribe: liveMembers{h.gossip}.Subscribe,
		Instances: h.instanceSet, Networks: objects.For[*k8scni.NetworkAttachmentDefinition](h.cache),
		Plug: plug, Logger: h.log.With("part", "hostnet"),
	})
	return err
}
