// Package agent assembles a host's agent from its parts. It holds no logic of
// its own: New reads as the story of a start, which Shutdown undoes in reverse.
//
// An agent starts from the inside out: it becomes a member of its mesh (package
// membership: who it is, the one port it speaks on, who else is there, what the
// mesh wants), finds out what this host can run (package host), makes the
// control loops that bring the two together (packages host and stewards), and at
// last serves the API by which users reach it. Guests do not belong to the
// process: they go on when it stops, and are found again when it starts.
package agent
