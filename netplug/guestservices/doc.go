// Package guestservices answers the DHCP and DNS requests of a host's guests in a process
// of its own, which outlives the agent.
//
//	agent                                         guest services
//	Client.Set --- state.json (atomic, versioned) ---> Run: Servers.Set
//	           --- control.sock: status, renew  --->
//
// The agent writes what is to be answered into a file, and the process answers from it. An
// agent that stops, crashes, hangs or is replaced costs the guests nothing: the process
// goes on with the last file. It watches the file, and starts servers again that ended.
//
// The process runs the program of the agent. When the agent's program is another than the
// process's, the agent asks the process to renew itself: it executes the new program in its
// place and hands the open sockets over, in which requests wait meanwhile, so that none is
// lost.
//
// Whoever watches over processes on the host starts it (systemd, or else the agent), and
// only one runs for a folder: it holds a lock there.
//
// The package knows neither the kernel's links nor the mesh. Requests of guests are hostile
// input, and the process has no rights but to open low ports.
package guestservices
