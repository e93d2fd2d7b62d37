// Package port is the one TCP port of a host. It accepts TLS connections, looks at
// the protocol the caller names (ALPN) and hands each to the listener of that protocol;
// it also dials the same protocols on other hosts.
//
//	virtmesh-raft, virtmesh-store, virtmesh-rpc, other virtmesh-...
//	    between hosts: TLS 1.3, both sides show a mesh host certificate
//	virtmesh-join
//	    TLS 1.3, the caller has no certificate yet; agent/port/enrol lives here
//	h2, http/1.1, none
//	    the API: TLS 1.2 or newer, a client certificate is optional, and verified if
//	    it is shown; a host is judged by Config.Admit here too
//
// # Invariants
//
// A connection that a mesh listener returns, or that Dial returns, has a peer whose
// certificate was verified against the CAs trusted at that moment and names a host:
// Conn.Peer. Certificates and CAs are read anew for every handshake, so rotation needs
// no restart. Sessions are not resumed, so that every connection is judged by today's
// certificates. A protocol with no listener is refused in the handshake.
//
// A caller that says nothing costs one goroutine for the handshake timeout; how many
// handshakes run at once is bounded, in all and per source address, so one slow or
// hostile source cannot keep the others out. So are the open connections of a source
// that shows no certificate.
//
// # What it does not do
//
// It does not end connections that it has handed over: whoever accepted or dialled one
// closes it. It does not decide who may call what: it only says who calls.
package port
