// Package netplug makes the network of one host match what its virtual machines need.
//
// The caller passes the whole wanted network to Plug.Set(ctx, Want) as often as it
// likes: bridges, the taps of the guests on them, gateways with NAT, DHCP and DNS, and
// the packet filter. The filter keeps a hostile guest away from the host and prevents it
// from using the addresses of its neighbours. Set observes the host, makes a plan
// (PlanFor is a pure function, and a Plan can be printed) and carries it out. A second
// Set with the same Want does nothing.
//
// Invariants:
//   - Set changes and removes only what it made itself. Its links carry the alias
//     "virtmesh:...", and its filter is in tables of its own. Taps may be plugged into a
//     bridge of the host, but that bridge is not changed. Each network namespace may
//     have only one Plug.
//   - A tap is never up before its filter is loaded. A tap that is no longer wanted but
//     still held open by a running machine is cut off by the filter, not removed.
//   - A part that fails (such as a bridge without its uplink) does not prevent the
//     others from being set up.
//   - Close ends the services in this process (DHCP, DNS) and leaves the network as it
//     is, so that machines outlive the agent.
//
// The package does not choose addresses across hosts (Pick and Allocator choose within
// one pool), does not encrypt guest traffic between hosts, and does not configure host
// interfaces apart from plugging in the uplinks that Want names. Only package
// netplug/kernel talks to the kernel; see interface Kernel.
package netplug
