// Package network turns the instances of this host into the host network that
// netplug is to make: a tap for every network card, the bridge of the default
// network with its addresses and names, and the bridges of secondary networks.
//
// The wanted network is a pure function of the instances that were placed on this
// host, the networks that their guests were attached to and the addresses given
// out. So the wanted network is the same after a restart of the agent, and the taps
// of instances that are gone are removed.
//
// The default network ("pod") is one subnet per host behind the host's
// address. Guests can open connections to the outside, but nothing outside can open
// a connection to a guest, except through the API. Its addresses are kept in
// a file and survive a restart of the agent. A secondary network is a bridge
// of the host, named by a NetworkAttachmentDefinition, that has an uplink and
// so spans hosts. The definition is read when a guest starts and kept in a file
// as long as it runs: an edit counts for the guests that start after it.
//
// The package does not touch the kernel, and does not choose subnets.
package network
