// Package vmi holds what KubeVirt's admission webhooks do to virtual machines:
// the defaults it fills in and the faults it refuses.
//
// The API applies it to what clients write; the controller that makes instances
// of virtual machines applies it to what it makes, so both come out the same.
//
// It belongs to both and imports neither. All functions are pure. They see one object: whether a secret, a claim or a
// network that it names exists is for its controller to find out.
package vmi
