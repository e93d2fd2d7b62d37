// Package collect deletes what nobody owns any more, and old events.
//
// The Collector follows every object of the store, of every kind and also of
// kinds this program does not know, in one watch; of each it keeps only the
// metadata. By owner references it then does what Kubernetes' garbage
// collector does:
//
//   - background: an object whose owners are all gone is deleted;
//   - foreground: an owner with the finalizer foregroundDeletion waits until
//     the dependents that block its deletion are gone;
//   - orphan: an owner with the finalizer orphan first takes itself off its
//     dependents.
//
// One watch shows a consistent state, in which an owner that is missing has
// been deleted (a uid does not come back); and every write is conditional on
// the version that was judged. So no object is deleted by mistake of timing.
// Owners of a kind that is not known here are held to exist.
//
// The Expirer deletes events after their time to live. The Sweeper of a host
// gives up the claims on it of instances that do not exist any more. Epochs
// forgets the fencing epochs of names that are not used any more.
package collect
