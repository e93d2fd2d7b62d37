// Package agent assembles a host's agent from its parts. It holds no logic of
// its own: New reads as the story of a start, Shutdown undoes it in reverse.
//
// An agent starts from the inside out: who it is (identity), the one port it
// speaks on (meshport), who else is there (gossip), what the mesh wants
// (raftstore), what this host can run (hypervisor), the control loops that
// bring the two together, and at last the API by which users reach it. Guests
// do not belong to the process: they go on when it stops, and are found again
// when it starts.
//
// Init, Join, Recover, Restore and Resync prepare a host's state before an agent
// runs on it.
package agent
