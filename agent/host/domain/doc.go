// Package domain turns a VirtualMachineInstance, with the disks and network
// devices its host has prepared, into a libvirt domain.
//
// It is pure: no clock, no files, no randomness, no call to libvirt. The same Input
// gives the same XML. So golden files in testdata can test every rule, and a definition
// can be compared with the one that a guest was started from.
//
// The domain follows KubeVirt's documentation and behaviour in names, aliases ("ua-"
// and the disk's or interface's name), device models, cache and error policies, and
// defaults. The defaults of the API object are set elsewhere; where a field may still
// be empty, the conversion uses KubeVirt's fallback value.
//
// Every field of the VMI is either honoured or refused with a FieldError that names the
// field. Where this host can only approximate a field (a CPU model without KVM, for
// example), the conversion does so and returns a warning. All errors are reported at
// once.
//
// Each file holds one device or one part of the machine. A part reads the VMI and
// writes its own elements. Parts do not read the elements of other parts, except
// pci_ports.go, which comes last and counts the PCI devices.
package domain
