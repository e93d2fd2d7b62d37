// Package objects gives the records of raftstore the shape of API objects.
//
// It owns the JSON of an object in the store, and how objects are read, written
// and watched by the controllers. Which kinds there are, where their objects live
// and which rules every write keeps is in package kinds.
//
//   - Get and List read one kind, typed.
//   - Tx collects several writes into one atomic transaction. Every write is
//     conditional on the version that was read, so two controllers with
//     different views cannot both win.
//   - Cache keeps typed copies of whole kinds up to date from the local
//     replica; Informer is one kind of it, with indexes and handlers.
//   - Recorder writes events.
//
// Claims, the outcome of a decision, are in the package claims below.
//
// Invariants: a stored object carries apiVersion and kind and no
// resourceVersion, which is the record's ModRevision; metadata.generation counts
// the changes of what is wanted, for the kinds that have it; uid,
// creationTimestamp and deletionTimestamp never change once set; an object whose
// deletion was asked for disappears in the same transaction that removes its last
// finalizer.
//
// Objects handed out by Cache and Informer are shared: copy before changing.
//
// The package does not default or validate objects; the API server does. It
// must not import anything of the agent but its own subpackages.
package objects
