// Package claims holds the outcomes of decisions, and the rules by which the
// store accepts or refuses them.
//
// A claim is a record below /claims/ that assigns one thing to another: an
// instance runs on a host, a volume is attached to an instance. The API does not
// serve claims. Layout:
//
//	/claims/vmi/<uid>             Instance: where an instance runs, and its resources
//	/claims/host/<host>/<uid>     Entry: the same by host, for the sum of a host
//	/claims/epoch/<ns>/<name>     Epoch: the last fencing epoch of a name
//	/claims/floor                 Floor: every new epoch is above it
//	/claims/capacity/<host>       Capacity: the limit for the sum of claims on a host
//	/claims/space/<host>/<ns>/<claim>  Space: the room that a volume takes in a pool of a host
//	/claims/volume/<ns>/<claim>   Volume: the instances that have it attached
//	/claims/migration/<uid>       Migration: one running migration
//	/claims/limits                Limits: how many migrations may run
//	/claims/quarantine/<host>     Quarantine: the host may run what a recovery forgot
//	/claims/guard/<ns>            the instance placed last that keeps others away there
//	/claims/unique/<class>/<name> Unique: the object that holds a MAC or an IP address (none is made yet)
//
// Functions of this package add a change of claims to an objects.Tx, with the
// conditions and constraints that make it safe. The caller adds whatever else
// belongs in the same transaction (such as the status of the instance) and commits.
// No other code may write below /claims/.
//
// Invariants, which the state machine enforces on every replica:
//
//   - host-capacity: when a claim on a host is made, the sum of the claims on the
//     host is within its capacity.
//   - pool-capacity: when a claim on a host's disks is made, what is promised on the file
//     system is within its capacity. It is demanded from feature level 4 on.
//   - vmi-once: an instance has claims on exactly the hosts that its record
//     names: one, or two while it migrates. Of all instances that ever had one
//     name, only the last has a claim. Host and target have different epochs.
//   - volume-once: a volume that is not shared is attached to at most one instance.
//   - placed-since: a decision that counted instances has seen all of them, and the
//     room reserved for migrations.
//   - migration-slots: no more migrations run than the stored limits allow.
//
// An epoch never decreases and is never used twice under one name. Whoever acts
// for an instance uses its epoch, and stops on seeing a higher one. The epoch record
// of a name that is no longer used is deleted; this raises the floor, and every new
// epoch is above the floor. A recovery raises it far above all epochs of before.
//
// Rules are versioned, and a version never changes, because every replica must judge a
// log entry as every other one does, whatever release it runs. The rules are in packages
// of their own (rulesv1, rulesv2, rulesv3), which depend on no other code of virtmesh but the store's view.
// A changed rule is added as a new version in a new package; the old one stays, for the
// log entries that name it.
package claims
