// Package volumes makes the volumes of instances usable on this host: it turns
// the volumes of a VirtualMachineInstance into disks that a domain can name.
//
//	containerDisk          image in the cache, guests write to an overlay
//	emptyDisk              new qcow2, gone with the instance
//	cloudInitNoCloud       seed image made from user, meta and network data
//	persistentVolumeClaim  volume in one of the host's pools
//
// What lives only as long as an instance is in a directory of its own, named
// by its UID, so that a new instance of the same name starts clean, and what
// is left of one that is gone can be recognised.
//
// A volume of a pool that only this host can reach is made on this host when
// the first instance that uses its claim comes here; the claim is then bound
// to this host, and placement keeps later instances on it.
//
// Invariants of a claim:
//
//   - A volume is made for it once. Its pool, host and reclaim policy are
//     recorded in annotations before that, together with its first holder, and
//     it is Bound after that. So Bound without a volume is an error, never a
//     reason to make another, and its StorageClass no longer matters.
//   - Its volume is deleted, by a host that reaches it, only when the claim is
//     being deleted, no instance that uses it is known, and the mesh says that
//     none holds it. None can attach it any more: that needs the claim as it
//     was before its deletion.
//   - When the host that has the volume is removed from the mesh, another one
//     lets the claim go.
//
// Failures are *instance.VolumeError, with the reasons KubeVirt uses.
package volumes
