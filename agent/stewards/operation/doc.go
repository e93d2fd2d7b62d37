// Package operation runs the control loop of Operations: long acts on the mesh
// that outlive the command and the host that began them.
//
// An Act turns an Operation into named steps. Each step is idempotent: it looks
// at what there is and does nothing where it finds its work done. The steward of
// the object carries the steps out in order and writes each into the status when
// it begins and when it is done.
//
// Who carries an operation out holds its lease, which stands in the status: the
// host, an epoch, and when it was renewed. Every write of the owner is
// conditional on its epoch. A host that becomes the steward while another owns
// the operation waits until the lease has not been renewed for its whole
// length, by its own clock, then takes over with the next epoch and goes on with
// the first step that is not done. An owner that cannot renew its lease stops.
// So a step is seldom carried out by two hosts at once, and the plans bear it.
//
// A step that fails is tried again with a back-off, without end, unless its
// error is Permanent. A cancellation is heeded before the next step: the steps
// that are done and say how are undone, the last one first.
//
// The owner writes when a step changes, and otherwise at most once in
// progressInterval: progress if there is news, or the lease. Operations that
// have ended are deleted after a day.
package operation
