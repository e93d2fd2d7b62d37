// Package places shares out what a listener has: connections that have not proved yet who
// they are, and the bytes that they may fill. Members have places that strangers cannot
// take. Among strangers, whoever has most gives way, so that holding many places keeps
// nobody else out.
//
// It is below package gossip because the listeners of gossip and of the mesh port share it,
// and gossip imports nothing of the agent's. It knows neither connections nor protocols.
package places
