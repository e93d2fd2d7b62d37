// Package operation runs the control loop of Operations: long acts on the mesh
// that outlive the command and the host that began them.
//
// An Act turns an Operation into named steps. Each step is idempotent: it looks
// at the present state and does nothing where its work is done already. The
// steward of the object carries the steps out in order and writes each into the
// status when it begins and when it is done.
//
// The host that carries an operation out holds its lease. The lease is part of
// the status: the host, an epoch, and the time of the last renewal. Every write
// of the owner is conditional on its epoch. A host that becomes the steward
// while another owns the operation waits until the lease has not been renewed
// for its whole length, by its own clock, then takes over with the next epoch
// and goes on with the first step that is not done. An owner that cannot renew
// its lease stops takeoverMargin before that. So two hosts seldom carry out a step at the same time, and
// the plans must tolerate it.
//
// A step that fails is tried again with a back-off, without end, unless its
// error is Permanent. The status holds the error's fault, with its code, object
// and remedy. A cancellation takes effect before the next step: the steps that
// are done and have an Undo are undone, the last one first. An operation whose
// type the steward does not know is cancelled without that, and says so.
//
// The owner writes when a step changes, and otherwise at most once in
// progressInterval: the progress if there is any, or else only the lease.
// Operations that have ended are deleted after a day.
package operation
