// Package store lets the API server's registry keep its objects in the
// replicated store: it implements k8s.io/apiserver's storage.Interface over
// raftstore records.
//
// An object lives where its kind says (kinds.Kind.StoreKey). The value is the JSON of the versioned object with
// apiVersion and kind set and resourceVersion empty: the record's ModRevision is
// the resourceVersion, and is filled in when the object is read.
//
// Consistency: a get or list that names no resourceVersion is linearizable; one
// that names a resourceVersion, "0" included, is answered by the local replica
// once it holds at least that revision. Updates and deletes are compare-and-swap
// on the revision they read, so they read the local replica first and confirm
// with a linearizable read before they report an error to the caller.
//
// Writes carry a request id. When the outcome of a commit is unknown it is
// retried with the same id until the request's deadline, and only then reported.
//
// The package knows no kinds, keeps no cache, and does not honour a time to live:
// kinds that expire are swept by a controller.
package store
