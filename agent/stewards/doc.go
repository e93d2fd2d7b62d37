// Package stewards is the engine that runs the mesh's control loops.
//
// A control loop is a Reconciler: given the key of one object it makes the
// world fit that object, or returns an error and is called again later. The
// engine supplies everything around it:
//
//   - Sources say which keys may need work (usually an informer of
//     agent/objects). Keys wait in a queue that holds each key once, and one
//     key is never handled by two workers of one controller at the same time.
//   - Stewardship decides which host handles a key: the winner of a rendezvous
//     hash over the live members. Work spreads over the mesh without a leader,
//     and when a host dies its keys, and only those, move to others.
//   - Failures are retried with exponential backoff; a panic is a failure.
//   - Run returns only after every goroutine it started has ended.
//
// Invariant the reconcilers must hold, not the engine: two hosts may for a
// moment both believe to be the steward of a key (their views of the
// membership differ). Every write must therefore be conditional, so that the
// store refuses the second one. Stewardship saves work; it is not a lock.
//
// The package knows nothing about the store or about any kind of object.
package stewards
