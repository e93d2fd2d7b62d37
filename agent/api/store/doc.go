// Package store lets the API server's registry keep its objects in the replicated
// store: it implements k8s.io/apiserver's storage.Interface on raftstore records.
//
// Each object is stored at the key that its kind defines (kinds.Kind.StoreKey). The
// value is the JSON of the versioned object with apiVersion and kind but without
// resourceVersion. The record's ModRevision is the resourceVersion, which is filled in
// when the object is read.
//
// Consistency: a get or list without a resourceVersion is linearizable. With a
// resourceVersion, "0" included, the local replica answers once it has at least that
// revision. Updates and deletes are compare-and-swap on the revision that they read. So
// they read the local replica first, and confirm with a linearizable read before they
// report an error.
//
// An update keeps the fields of the stored object that this version does not know (see
// package skew). Whether it changes anything is decided by those that it knows.
//
// Lists and watches for clients hold objects as they are stored (Undecoded), which become
// JSON without being decoded.
//
// Writes carry a request ID. If the outcome of a commit is unknown, the commit is
// retried with the same ID until the request's deadline, and only then reported.
//
// What planners of a kind (kinds.Planner) add to a write, the backend commits with it. A dry
// run asks them too, with Rehearse.
//
// The package depends on no particular kind, has no cache, and ignores a time to live:
// a controller deletes objects that expire.
package store
