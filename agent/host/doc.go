// Package host assembles what an agent does on its own host: it finds the
// hypervisor, opens storage and network, and runs the loops that make the host
// match the claims that name it.
//
//	machine  what can run here: libvirt, KVM or emulation, capacity
//	storage  pools, images, the disks of instances
//	network  the guests' networks
//	executor starts, stops and reports instances
//	publish  tells the mesh what the host is and has
//	offer    answers whether the host would take an instance
//
// Each part has a package of its own below this one, and none of them knows how
// the others are made. Parts meet stewards in stored objects only.
package host
