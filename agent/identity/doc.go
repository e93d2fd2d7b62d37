// Package identity owns who a host is: the mesh certificate authority, the join
// tokens, the certificate of this host and its rotation, and the certificate of the
// administrator.
//
// # What is kept where
//
// A state directory holds one folder "identity" (mode 0700, files 0600) with the name
// of the host and the mesh, the CA certificates it trusts, the CA key, the gossip keys
// and one file with the host's private key and certificate together. The folder appears in one rename,
// so a host is either a member or not, never half of one. The key and the
// certificate share a file so that a rotation replaces both or neither.
//
// The replicated store holds, under /mesh/, what every host must agree on: the CA
// (/mesh/ca), the gossip keys (/mesh/gossip), the tokens (/mesh/tokens/<id>), one
// record a host (/mesh/hosts/<name>), a mark for each membership that has ended
// (/mesh/departed/<host ID>) and one for each name whose host was removed by force, until
// another bears it (/mesh/expelled/<name>). A token is stored as the hash of its secret.
//
// # Names
//
// A host's certificate says CN "system:node:<host>", O "system:nodes" and, as the serial
// number of its subject, the host ID; between hosts these are the identity, never a DNS
// name. The ID is random and made for each membership, by init or by the member that
// admits. A name is free again when its host is gone; the machine that bore it before is
// told by its ID, however valid its certificate, and is not let in. The subject
// alternative names are for API clients: the host name, its addresses, "localhost" and
// "virtmesh".
//
// # The trade-off of the CA key
//
// The private key of the CA is in the replicated store, so on the disk of every host,
// and once more in every state directory. So any host can admit a new host and renew
// certificates, no host is special, and a mesh that was switched off longer than its
// certificates live starts again by itself: each host signs for itself (SelfIssuer),
// because before that no two could talk, and without a quorum a replica may not know
// what its log says. The price: whoever takes over one host, or one disk of a host,
// holds the CA and can act as any host and as the administrator. Removing a host's
// record stops its renewals and is enough for a host that is gone or honest; after a
// break-in it is not, and the mesh must be given a new CA. Encrypt the disks of the
// hosts.
//
// # What it does not do
//
// It opens no port and speaks no protocol: agent/port/enrol does. There is no revocation
// list: an administrator's certificate is good until it ends. A host's lives for hours, is
// not renewed once the host's record is gone, and Hosts.Admit turns it away before that. It does not replace the CA of a running mesh.
package identity
