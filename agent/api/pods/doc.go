// Package pods shows a Pod for each virtual machine instance, as KubeVirt has a virt-launcher pod
// for it, so that clients who know pods go on working: kubectl get, describe and drain, wait,
// selectors of Services, and runbooks.
//
// A Pod is computed from the stored instance whenever somebody asks (Of); nothing of it is stored.
// Invariants: the same instance always has the same Pod, on every host; nobody can create or
// change one; to delete or evict one is to delete its instance.
package pods
