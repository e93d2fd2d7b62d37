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
// Failures are *instance.VolumeError, with the reasons KubeVirt uses.
package volumes
