// Package collect deletes objects whose owners are gone, old events, and fencing epochs
// that are no longer needed.
//
// The Collector follows all objects of the store in one watch, including those
// of kinds that this program does not know. It keeps only their metadata. From
// the owner references it does what Kubernetes' garbage collector does:
//
//   - background: an object whose owners are all gone is deleted;
//   - foreground: an owner with the finalizer foregroundDeletion waits until
//     the dependents that block its deletion are gone;
//   - orphan: an owner with the finalizer orphan first removes its references from
//     its dependents.
//
// One watch shows a consistent state. An owner that is missing from it has been
// deleted, because a UID is never used again. Every write is conditional on the
// version on which the decision was made. So no race can delete an object. Owners of an
// unknown kind are assumed to exist.
//
// The Expirer deletes events after their time to live. Epochs deletes the fencing
// epochs of names that are not used any more.
package collect
