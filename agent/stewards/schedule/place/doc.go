// Package place decides which host an instance runs on.
//
// It is pure: a Snapshot holds what is known of the hosts and of the instances
// on them, a Request is what one instance needs, and Place filters, scores and
// chooses. There is no clock, no I/O and no randomness; the same snapshot and
// request give the same answer on every host.
//
// What it does not do: it neither asks the chosen host nor writes anything.
// The decision is a proposal, and the store's constraints judge the claim that
// follows from it.
package place
