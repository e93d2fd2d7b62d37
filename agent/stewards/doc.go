// Package stewards is the engine that runs the mesh's control loops.
//
// A control loop is a Steward, a value that says what the loop is called, what
// it reads (Inputs), what it writes (Outputs) and what it does (a Reconciler):
// given the key of one object it makes the world fit that object, or returns an
// error and is called again later. The engine supplies everything around it:
//
//   - Inputs name the keys that may need work (usually by an informer of
//     agent/objects). Keys wait in a queue that holds each key once, and one
//     key is never handled by two workers of one loop at the same time.
//   - Stewardship decides which host handles a key: the winner of a rendezvous
//     hash over the live members. Work spreads over the mesh without a leader,
//     and when a host dies its keys, and only those, move to others.
//   - Outputs are checked. A transaction that writes anything else is refused,
//     logged and counted: it is a mistake in the program.
//   - Failures are retried with exponential backoff; a panic is a failure.
//   - Run returns only after every goroutine it started has ended.
//
// The rate at which a loop writes is bounded, whatever fails. The engine knows
// the revisions that a reconciliation has written. While a key fails, only a
// change that its last reconciliation did not write itself can end its back-off
// early, and only at a bounded rate. A key that does not fail, but is woken by
// nothing except its own writes, is handled at growing intervals. A key that
// writes whenever others change its object is handled at a bounded rate.
//
// The engine does not ensure that a key has only one steward; reconcilers must
// allow for two. While the views of the membership differ, two hosts may both
// believe that they are the steward of a key. Every write must therefore be
// conditional, so that the store refuses the second one. Stewardship saves
// work; it is not a lock.
//
// The loops of a host (agent/host) run on the same engine. Their stewards set
// Everywhere, because the objects that they handle belong to this host, whoever
// else is alive. The list of all stewards is in DESIGN.md, and a test keeps it
// true. Tests of stewards use stewardstest.
package stewards
