// Package mesh is a whole mesh in one process: every host has its own gossip, replica,
// caches, stewards, executor and publisher, the ones of the agent, over a simulated
// network and hypervisor. Hosts can lose power, agents can be killed at any step, and
// links can be cut, in one direction too.
//
// A History notes what happened: which host ran which guest, every claim and every write.
// Check compares it with what the mesh promises.
//
// The package waits on channels and timers of package time only, so that it runs in a
// testing/synctest bubble, where an hour costs only the work done in it.
package mesh
