// Package agent assembles a host's agent from its parts. It holds no logic of
// its own: New reads as the story of a start, which Shutdown undoes in reverse.
//
// An agent starts in this order: it becomes a member of its mesh (package
// membership: its identity, the mesh port, the other members and the replicated
// state), finds out what this host can run (package host), assembles the
// control loops that make the host match the state (packages host and
// stewards), and finally serves the API to users. Guests do not belong to the
// process: they keep running when it stops, and the agent finds them again when
// it starts.
package agent
