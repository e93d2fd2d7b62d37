// Package network turns the instances of this host into the host network that
// netplug is to make: a tap for every network card, the bridge of the default
// network with its addresses and names, and the bridges of secondary networks.
//
// The wanted network is a pure function of the instances that were placed
// here, the networks that their guests were attached to and the addresses given
// out, so an agent that restarts wants what the one before it wanted, and taps
// of instances that are gone go.
//
// The default network ("pod") is one subnet per host behind the host's
// address: guests reach out, and nothing reaches in. Its addresses are kept in
// a file and survive a restart of the agent. A secondary network is a bridge
// of the host, named by a NetworkAttachmentDefinition, that has an uplink and
// so spans hosts. The definition is read when a guest starts and kept in a file
// as long as it runs: an edit counts for the guests that start after it.
//
// The package does not touch the kernel, and does not choose subnets.
package network
