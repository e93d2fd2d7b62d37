// Package enrol is the protocol by which a host becomes a member of a mesh, renews its
// certificate and learns of its expulsion. It runs as HTTP/1.1 over port.ProtoJoin, where the
// server shows its host certificate and the caller has none.
//
//	POST /mesh/v1/join       token and signing request -> certificate, CAs, gossip keys, members
//	POST /mesh/v1/renew      proof by the present key  -> next certificate
//	POST /mesh/v1/standing   the same proof            -> whether the mesh has expelled the host
//	GET  /mesh/v1/clock                                -> the server's clock
//
// # Invariants
//
// The joining host sends its token only after the server has shown a host certificate
// from the CA that the token pins. The server creates the host's record and uses up the
// token in one transaction, and the host writes everything it received in one rename, so
// neither side can end up with a partly joined host. The private key never leaves the
// host. The host keeps the key next to the identity folder in its state directory until
// the join succeeds, so that a join whose answer was lost can be repeated with the same
// token.
//
// Each reason to refuse has an error of its own, the same on both sides of the wire; see
// errors.go. Any other error is "unavailable", and the caller may try again.
//
// # What it does not do
//
// It does not make the host a replica or a gossip member: the agent does, with the
// members that the answer lists. It does not decide who may create tokens.
package enrol
