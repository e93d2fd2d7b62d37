// Package mesh is a whole mesh in one process: every host has its own gossip, replica,
// caches, stewards, executor and publisher, the ones of the agent, over a simulated
// network, hypervisor and disk. Its faults:
//
//   - agents are killed before and after any step: a write to the mesh, an act on a guest;
//     and hosts lose their power before any write or sync of the replica's log. What was
//     not synced is lost then, or torn;
//   - disks are full;
//   - links are cut, in one direction too, or lose, duplicate and delay what they carry, and
//     connections break;
//   - hosts stand still for lack of CPU time;
//   - wall clocks are wrong, are set, and run at another rate, while monotonic clocks go on;
//   - guests crash, and hosts refuse what they are asked for.
//
// A Walk draws from all of them. A History notes what happened: which host ran which guest,
// every claim and every write. Check compares it with what the mesh promises. A replica
// whose state differs from that of the others ends its agent, which no mesh may do.
//
// The package waits on channels and timers of package time only, so that it runs in a
// testing/synctest bubble, where an hour costs only the work done in it.
package mesh
