// Package vmi says what the manifest of a virtual machine means. All other packages use
// its answers, so they agree. It fills in defaults and reports faults as KubeVirt's
// admission webhooks do, and computes CPUs, memory, overhead, disks and devices.
//
// The API applies the defaults and the validation to the objects that clients write;
// the steward of virtual machines applies them to the instances that it creates.
// Placement charges by Policy and compares Needs, the claim rules add up Resources, and
// the host converts with the same Topology and GuestMemory. So what is charged is what
// is started.
//
// The package imports none of its users. All functions are pure: time is a parameter.
// Each function sees one object only: controllers find out whether the secrets, claims
// and networks that the object names exist.
//
// The package is imported as machine, because variables that hold an instance are called
// vmi.
package vmi
