// Package netplug makes the network of one host match what its virtual machines need.
//
// The caller hands over the whole wanted network, Plug.Set(ctx, Want), as often as it
// likes: bridges, the taps of the guests on them, gateways with NAT, DHCP and DNS, and
// the packet filter that keeps a hostile guest away from the host and from the addresses
// of its neighbours. Set observes the host, plans (PlanFor is a pure function and a Plan
// can be printed) and acts. A second Set of the same Want does nothing.
//
// What it holds to:
//   - It changes and removes only what it made. Its links carry the alias
//     "virtmesh:..."; its filter lives in tables of its own. A bridge of the host may be
//     used by taps, but is left as it is. There is one Plug in a network namespace.
//   - A tap is never up before its filter is loaded. A tap that is no longer wanted but
//     is still held open by a running machine is cut off, not removed.
//   - One part that fails (a bridge without its uplink) does not hold up the others.
//   - Close ends the services of the process (DHCP, DNS) and leaves the network as it
//     stands, so that machines outlive the agent.
//
// What it does not do: it decides no addresses across hosts (Pick and Allocator decide
// within one pool), hides no guest's traffic from the network between hosts, and
// configures no host interface beyond plugging in the uplinks that Want names. Only package netplug/kernel talks to the
// kernel; see interface Kernel.
package netplug
