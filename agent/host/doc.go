// Package host assembles what an agent does on its own host: it finds the
// hypervisor, opens storage and network, and runs the loops that make the host
// match the claims that name it.
//
//	machine  what can run here: libvirt, KVM or emulation, capacity
//	storage  pools, images, the disks of instances
//	network  the guests' networks
//	executor starts, stops and reports instances
//	publish  writes the host's Node and gossips what is free
//	sweep    gives up the claims of instances that no longer exist
//	offer    answers whether the host would take an instance
//
// Most parts have a package of their own below this one, and no part knows how the
// others are made. Parts and stewards communicate only through stored objects.
package host
