// Package usage counts what the objects of a namespace use of its quotas. It is pure.
//
// A namespace with a ResourceQuota has one Record in the store, with the limits of all its
// quotas and with what is used. Every transaction that creates or deletes objects of the
// namespace, or changes what they use, changes the Record too, on condition that nobody else
// has. So no two transactions can take the same last piece, and nothing is counted twice. A
// namespace without a quota has no Record, and its transactions require that there is none.
//
// What was there before the first quota is counted afterwards (package stewards/quota). Until
// then Used holds only what has changed since, and what a quota limits cannot be had.
//
// The names of resources are those of Kubernetes. Where it counts pods, this package counts
// instances.
package usage
