// Package domain turns a VirtualMachineInstance, with the disks and network
// devices its host has prepared, into a libvirt domain.
//
// It is pure: no clock, no files, no randomness, no call to libvirt. The same Input
// gives the same XML, so every rule is held by a golden file in testdata, and a
// definition can be compared with the one a guest was started from.
//
// What KubeVirt documents and does is followed: names, aliases ("ua-" and the disk's
// or interface's name), device models, cache and error policies, defaults. Defaulting
// of the API object is not done here; where a field may still be empty, the value
// KubeVirt falls back to is used.
//
// Every field of the VMI is either honoured or refused with a FieldError that names
// it; what can only be approximated on this host (a CPU model without KVM, say) is
// done and reported as a warning. All errors are reported at once.
//
// Each file holds one device or one part of the machine. A part reads the VMI and
// writes its own elements; parts do not look at one another's, except pci_ports.go,
// which comes last and counts.
package domain
