// Package executor carries out the claims on this host: it starts, watches,
// stops and cleans up the virtual machine instances that were placed here, and
// reports their status.
//
// One reconciliation looks, plans and acts. It looks at the instance and its
// claim, at the domain with the records in its metadata, and at what this process
// remembers (a preparation of volumes under way, the last failure to start). A
// pure function turns these into a Plan, an ordered list of steps, and a runner
// carries out the steps one by one:
//
//	file                  content
//	plan.go               Plan, Step, situation: the values
//	plan_rules.go         plan: from a situation to a plan, all decisions
//	run.go                Reconcile: look, plan, do; the linearizable reads
//	steps.go, status*.go  what the steps do: status_machine.go reports what the
//	                      host made, status_guest.go what the guest agent says
//	records.go            what is recorded in a domain's metadata
//	failure.go, flips.go  back-off of starts, pauses between changes of status
//
// A plan may be interrupted before any step, by a failure or by the death of the
// agent. It is not resumed: the next reconciliation looks again and makes a new
// plan from what it finds. So every step may be repeated, and the steps are
// ordered so that whatever a new plan needs to go on is removed last.
//
// Invariants:
//   - an instance belongs to this host if its claim names this host. The status
//     gives no right to run it. The target host of a migration, for which the
//     claim only reserves room, leaves the domain alone;
//   - a domain carries the epoch of the claim it was started under. A domain with
//     an older epoch than the claim's is stopped. A domain with a newer epoch means
//     that this host's copy of the claim is old: the host reads the claim
//     linearizably, and leaves the guest alone;
//   - the instances of a VirtualMachine, one after the other, have one domain UUID. The
//     domain of an earlier instance is removed before the next instance starts;
//   - every write of an instance requires that the claim has not changed since it
//     was read;
//   - instance and claim are read linearizably right before a start, after
//     everything that takes long;
//   - a guest is asked to shut down before its power is cut. Its grace period
//     starts at this host's own first request, which is recorded with the domain;
//   - how a guest ended is recorded with the domain before anything is removed. The
//     domain is undefined last, after the final phase was written to the store;
//   - no worker waits for an image or a guest: the executor's own tasks prepare
//     volumes and query guest agents. The end of an instance ends its preparation;
//   - a guest cannot choose how often its agent is queried or its status is
//     written. A start that fails is tried again with back-off, whatever event
//     arrives meanwhile, and its failure is written again when the reason
//     changes, which is one of a known set, and ever more seldom when only the
//     text does;
//   - the transaction that writes the final phase also removes the claim and the
//     finalizer. It comes after the guest has ended and its volumes are released,
//     so no other host can start the instance earlier;
//   - a domain is stopped as an orphan only after the mesh confirmed, by a
//     linearizable read, that its instance is gone or has no claim on this host.
//     When that read fails, guests keep running;
//   - no guest is started, stopped or removed, and nothing of it is deleted, on the word of
//     a copy of the mesh's state that may not be the mesh's: the copy is confirmed first
//     (Config.Confirm);
//   - restarting the agent touches no guest.
//
// The package does not decide where instances run. It uses volumes and networks
// only through the interfaces Volumes and Network.
package executor
