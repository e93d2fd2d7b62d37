// Package vmi is the one reading of a virtual machine: what a manifest means, once
// for all who act on it. It fills in defaults and names faults as KubeVirt's
// admission webhooks do, and computes CPUs, memory, overhead, disks and devices.
//
// The API applies defaults and faults to what clients write, and the steward of
// virtual machines to the instances that it makes. Placement charges by Policy and
// compares Needs, the rules add up Resources, the host converts by the same
// Topology and GuestMemory. So what is charged is what is started.
//
// It belongs to all of them and imports none. All functions are pure: time is a
// parameter. They see one object: whether a secret, a claim or a network that it
// names exists is for its controller to find out.
package vmi
