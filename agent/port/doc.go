// Package port is the one TCP port of a host. It accepts TLS connections, reads the
// protocol that the caller names (ALPN) and passes each connection to the listener of that
// protocol. It also dials the same protocols on other hosts.
//
//	virtmesh-raft, virtmesh-store, virtmesh-rpc, virtmesh-keyring, other virtmesh-...
//	    between hosts: TLS 1.3, both sides show a mesh host certificate
//	virtmesh-join
//	    TLS 1.3, the caller has no certificate yet; agent/port/enrol serves it
//	h2, http/1.1, none
//	    the API: TLS 1.2 or newer; a client certificate is optional, and is verified if
//	    the client shows one; Config.Admit checks a host here too
//
// # Invariants
//
// A connection that a mesh listener or Dial returns has a peer whose certificate names a
// host (Conn.Peer) and was verified against the CAs trusted at that time. Every handshake
// reads certificates and CAs again, so a rotation needs no restart. TLS sessions are not
// resumed, so that every connection is verified with the current certificates. The
// handshake fails for a protocol without a listener. A panic of the code that serves one
// connection or one HTTP request ends that one alone; it is logged and counted.
//
// # Strangers
//
// A caller that shows no certificate is a stranger, and before he could show one, a caller
// whose address is not that of a host (Config.Known). What strangers can take of the port is
// bounded apart from what hosts can take: handshakes at the same time and in a second, bytes
// before a handshake ends, and open connections. Nobody is kept waiting for them: a
// connection that gets no place is closed, and the stranger with most places makes room, an
// IPv6 network of 64 bits being one. So who holds connections keeps nobody out, and who
// wants to keep other strangers out has to come from more addresses than they do, all the
// time. On an open connection a stranger has few requests at a time and few in a second.
//
// # Versions
//
// Hosts of two versions speak to each other while a mesh is upgraded. In the protocols that
// are HTTP (virtmesh-rpc, virtmesh-keyring, virtmesh-join, the administration API) both sides introduce
// themselves in a header, with the versions of the protocol and the feature levels that
// they know (Speaker): they use the newest version that both speak, or part with a fault
// that says which host is too old and what to install. Fields that a version does not know
// are skipped.
//
// # What it does not do
//
// It does not close connections that it has handed over: the code that accepted or dialled
// a connection closes it. It authenticates callers but does not authorize their requests.
package port
