// Package volumes makes the volumes of instances usable on this host: it turns
// the volumes of a VirtualMachineInstance into disks that a domain can name.
//
//	containerDisk          image in the cache, guests write to an overlay
//	emptyDisk              new qcow2, gone with the instance
//	cloudInitNoCloud       seed image made from user, meta and network data
//	persistentVolumeClaim  volume in one of the host's pools
//
// Disks that live only as long as their instance are in a directory named by the
// instance's UID. So a new instance of the same name starts clean, and the disks
// of an instance that is gone can be recognised.
//
// A volume of a pool that only this host can reach is made on this host when
// the first instance that uses its claim comes here; the claim is then bound
// to this host, and placement keeps later instances on it.
//
// Invariants of a claim:
//
//   - A volume is made for a claim once. Before that, the claim's pool, host and
//     reclaim policy are recorded in annotations, together with its first holder.
//     After that, the claim is Bound and its StorageClass no longer matters. So a
//     Bound claim without a volume is an error, and never a reason to make another
//     volume.
//   - A claim's volume is deleted, by a host that can reach it, only when the claim
//     is being deleted, no instance that uses it is known, and the mesh's record of
//     holders is empty. No instance can attach the claim any more: attaching
//     requires that the claim has not changed since it was read, and the deletion
//     changes it.
//   - When the host that has the volume is removed from the mesh, another host
//     removes the claim's finalizer.
//
// What the TPM and the firmware of a machine keep between its instances has a claim of
// its own, which names the host that has it. The same holds of it: it is begun once, and
// removed with its claim. It is not in a pool: package firmware keeps it.
//
// Failures are *executor.VolumeError, with the reasons KubeVirt uses.
package volumes
