// Package claims holds the outcomes of decisions, and the rules by which the
// store judges them.
//
// A claim is a record below /claims/ that says what belongs to what: this
// instance runs on that host, this volume is written by that instance. It is
// not served by the API. Layout:
//
//	/claims/vmi/<uid>             Instance: where it runs, and what it takes
//	/claims/host/<host>/<uid>     Entry: the same by host, for the sum
//	/claims/epoch/<ns>/<name>     Epoch: the last fencing epoch by name
//	/claims/floor                 Floor: the highest epoch that was forgotten
//	/claims/capacity/<host>       Capacity: what the claims on a host may add up to
//	/claims/volume/<ns>/<claim>   Volume: who has it attached
//	/claims/migration/<uid>       Migration: one running migration
//	/claims/guard/<ns>            who was last placed that keeps others away there
//	/claims/unique/<class>/<name> Unique: who holds a MAC or an IP address
//
// Functions of this package add a change of claims to an objects.Tx, with the
// conditions and constraints that make it safe; the caller adds what else
// belongs in the same transaction (the status of the instance) and commits.
// Nothing else may write below /claims/.
//
// Invariants, held by the state machine on every replica:
//
//   - host-capacity: what is claimed of a host is never more than its capacity
//     when a claim on it is made.
//   - vmi-once: an instance holds claims on exactly the hosts that its record
//     names, one, or two while it migrates; and of the instances that ever had
//     one name, only the last holds a claim.
//   - volume-once: a volume that is not shared is attached by one instance.
//   - placed-since: who counted instances to decide has seen all of them.
//   - migration-slots: no more migrations run than the limits allow.
//
// An epoch never goes back and is never used twice under one name. Whoever acts
// for an instance carries its epoch, and who sees a higher one stops. The record
// of a name that is not used any more is forgotten; it raises the floor, above
// which names without a record begin.
//
// Rules are versioned. A change of a rule is a new version beside the old one;
// the old one stays for the entries in the log that name it.
package claims
