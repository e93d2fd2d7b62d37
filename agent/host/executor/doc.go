// Package executor carries out the claims on this host: it starts, watches,
// stops and cleans up the virtual machine instances that were placed here, and
// reports their status.
//
// One reconciliation looks, plans and acts. It looks at the instance and its
// claim, at the domain with the records in its metadata, and at what this process
// remembers (a preparation of volumes under way, the last failure to start). From
// that a pure function makes a Plan, an ordered list of steps, and a runner does
// the steps one by one:
//
//	files                 what they hold
//	plan.go               Plan, Step, situation: the values
//	plan_rules.go         plan: from a situation to a plan, all decisions
//	run.go                Reconcile: look, plan, do; the linearizable question
//	steps.go, status*.go  what the steps do: status_machine.go tells of what the
//	                      host made, status_guest.go of what the guest says
//	records.go            what is recorded in a domain's metadata
//	failure.go, flips.go  back-off of starts, pauses between changes of status
//
// A plan may be interrupted before any step, by a failure or by the death of the
// agent. It is not resumed: the next reconciliation looks again, and its plan goes
// on from what is there. So every step may be repeated, and the order of the steps
// is such that what is needed to go on is removed last.
//
// Invariants:
//   - an instance is this host's if its claim names this host. What its status
//     says gives no right. A host for which a migration has reserved room leaves
//     the domain alone;
//   - a domain carries the epoch of the claim it was started under. One with an
//     older epoch than the claim's is stopped. One with a newer epoch means that
//     this host's view is old: the mesh is asked, and the guest is left alone;
//   - every write of an instance is on condition that the claim is as it was read;
//   - instance and claim are read linearizably right before a start, after
//     everything that takes long;
//   - a guest is asked to shut down before its power is cut, and has its grace
//     period from this host's own first request, which is recorded with the domain;
//   - how a guest ended is recorded with the domain before anything is removed, and
//     the domain is undefined last, after the mesh was told;
//   - no worker waits for an image or a guest: volumes are prepared, and guest
//     agents asked, by tasks of the executor's own. The end of an instance ends
//     its preparation;
//   - how often a guest is asked, and written about, is not for it to choose. A
//     start that fails is tried again with back-off, whatever wakes the instance,
//     and is written about when the reason is another one;
//   - the claim and the finalizer go in the transaction that reports the final
//     phase, after the guest has ended and its volumes are released: nobody else
//     may start the instance before;
//   - a domain is stopped as an orphan only after the mesh confirmed, by a
//     linearizable read, that its instance is gone or has no claim on this host.
//     When the mesh cannot be asked, guests go on;
//   - restarting the agent touches no guest.
//
// The package decides nothing about where instances run, and knows volumes and
// networks only through the interfaces Volumes and Network.
package executor
