// Package identity owns the identity of a host: the mesh certificate authority, the join
// tokens, the certificate of this host and its rotation, and the certificates of people.
//
// # Where the state is stored
//
// A state directory holds one folder "identity" (mode 0700, files 0600) with the name
// of the host and the mesh, the CA certificates it trusts, the gossip keys, on hosts that
// hold it the keyring (the keys of CAs, the private keys for Secrets, the note of the newest
// recovery bundle), and one file with the host's private key and certificate together. The folder appears
// in one rename, so a host is either a member or not, never half of one. The key and the
// certificate share a file so that a rotation replaces both or neither.
//
// The replicated store holds, under /mesh/, what every host must agree on: the CA
// (/mesh/ca), the gossip keys (/mesh/gossip), which recovery bundle was made
// (/mesh/bundles), the keyring for that bundle (/mesh/escrow), the tokens (/mesh/tokens/<id>), one
// record per host (/mesh/hosts/<name>), a mark for each membership that has ended
// (/mesh/departed/<host ID>), a mark for each name whose host was removed by force,
// until another machine takes the name (/mesh/expelled/<name>), the list of the mesh's voters
// (/mesh/manifests/, see package manifest), a record for each certificate of a
// person (/mesh/clients/<hash of its key>), and one for each person who is a user and no
// administrator (/mesh/users/<name>). A token is stored as the
// hash of its secret.
//
// # Names
//
// The subject of a host's certificate has CN "system:node:<host>", O "system:nodes" and,
// as its serial number, the host ID. Hosts identify each other by these and never by a
// DNS name. The host ID is random and new for each membership; init makes it, or the
// member that admits the host. A name is free again when its host is gone. The machine
// that had the name before is recognised by its ID and refused, even if its certificate
// is still valid. A host keeps its key for as long as it is a member, and from level.Apart
// on its record has the key's pin, so that a certificate for another key is refused. The
// subject alternative names are for API clients: the host name, its addresses, "localhost"
// and "virtmesh".
//
// # The CA key
//
// The private key of the CA is in the replicated store of a new mesh, so it is on the disk
// of every host, and each state directory holds another copy. Once a recovery bundle was
// made (Bundle, Custody), the key leaves the store (WithdrawCAKey), and only voters hold
// it, each in its identity folder; agent/membership decides when. Keys that are made after the
// bundle are in escrow for it (EscrowRecord), so that it gives them back; which bundle is the
// newest a voter's keyring knows (KnownBundle), since any host can write the store. A host without the key
// passes on what it is asked to sign to a voter (Authority), so any host still admits and
// renews. A mesh that was switched off for longer than its certificates are valid recovers
// without help: each host that holds the key signs its own certificate (SelfIssuer),
// because until then no two hosts can connect, and without a quorum a replica may not know
// which of its log entries are committed; the others ask these. An attacker who has the key
// cannot act as a host whose record says that it keeps its key, since he does not have that
// key; an ID that he makes has no record, and agent/membership takes such a one for newer than
// the local replica only if the list of voters names it. Removing a host's record stops its renewals. This is enough
// for a host that is gone, honest, or never held the key; otherwise it is not, and the mesh
// must be given a new CA. Encrypt the disks of the hosts.
//
// On disk the keyring is in clear until SealKeyring, and sealed from then on (agent/hostseal):
// secretFiles is the only reader and writer of its files. Keys that the host cannot open any
// more count as not held; their files are put aside when the host gets the keys again.
//
// # What it does not do
//
// It opens no port and speaks no protocol: agent/port/enrol does. A host's certificate is
// valid for hours and is not renewed once the host's record is gone; Hosts.Admit refuses
// it even before it expires. When the CA is replaced (CARecord), and when a key moves, decides
// agent/membership.
package identity
