// Package objects reads and writes the records of raftstore as API objects.
//
// It owns the JSON of an object in the store, and how controllers read, write and
// watch objects. Package kinds says which kinds there are, where their objects are
// stored and which rules apply to every write.
//
//   - Get and List read objects of one kind, typed.
//   - Tx collects several writes into one atomic transaction. Every write is
//     conditional on the version that was read, so if two controllers have
//     different views, at most one of them commits.
//   - Cache keeps typed copies of whole kinds up to date from the local
//     replica. An Informer is the part of it for one kind, with indexes and handlers.
//   - Recorder writes events.
//
// Claims, the outcomes of decisions, are in package claims.
//
// Invariants: a stored object has apiVersion and kind but no resourceVersion, which
// is the record's ModRevision. metadata.generation counts the changes of the spec,
// for the kinds that have a generation. uid, creationTimestamp and deletionTimestamp
// never change once set. An object that is being deleted disappears in the same
// transaction that removes its last finalizer.
//
// A write changes what this version knows of a stored object, and leaves what a newer
// version has added to it; DESIGN.md of package agent says what that asks of new fields.
//
// Objects that Cache and Informer return are shared: copy before changing.
//
// The package does not default or validate objects; the API server does. Of package
// agent's subtree it may import only sealed, what is below it, and its own subpackages.
package objects
