// Package admin is the mesh's own administration API, for what has no Kubernetes kind:
// members and replication, join tokens, people and their certificates, and removing a host.
//
// It is served under /mesh/v1 on the mesh port, to clients that are administrators
// (organization system:masters), and on the agent's local socket, which only root may
// open. Other people get one thing of it: the next one of their own certificates. The virtmesh command prints its types with -o json, so fields are only added
// and never removed or renamed. Every error answer is a fault.
package admin

import (
	"time"

	"virtmesh/agent/level"
)

// Status is the mesh as one host sees it.
type Status struct {
	// Host is the host that answered.
	Host string `json:"host"`
	// MeshID is the same on every host of a mesh.
	MeshID string `json:"meshID"`
	// Version is the answering agent's version.
	Version string `json:"version"`
	// Leader is the host that orders writes now; empty without a quorum.
	Leader string `json:"leader,omitempty"`
	// Term is the Raft term.
	Term uint64 `json:"term"`
	// Revision is the store revision that the answering host has applied.
	Revision uint64 `json:"revision"`
	// Members lists every known host, by name.
	Members []Member `json:"members"`
	// Level tells of the mesh's feature level; nil on a host without a copy of the mesh's
	// state.
	Level *Level `json:"level,omitempty"`
	// Keyring tells where the private key of the mesh's CA is; nil on a host without a copy
	// of the mesh's state.
	Keyring *KeyringStatus `json:"keyring,omitempty"`
	// Demoted lists the hosts that have voted, may not vote any more, and may have kept keys
	// that are in use.
	Demoted []DemotedVoter `json:"demoted,omitempty"`
	// Warnings lists what needs an operator's attention; empty if nothing does.
	Warnings []string `json:"warnings,omitempty"`
}

// Member is one host of the mesh.
type Member struct {
	Name string `json:"name"`
	// MeshAddress is the host:port of its API and agent traffic.
	MeshAddress string `json:"meshAddress"`
	// State is alive, suspect, dead, left or unknown.
	State string `json:"state"`
	// Role is leader, voter, replica (a copy that the leader feeds and that does not vote),
	// follower (a copy that another host feeds) or none.
	Role string `json:"role"`
	// MayNotVote is true for a host that the MeshConfig does not let vote (spec.voters).
	MayNotVote bool `json:"mayNotVote,omitempty"`
	// Source is the host that feeds a follower.
	Source  string `json:"source,omitempty"`
	Zone    string `json:"zone,omitempty"`
	Version string `json:"version,omitempty"`
	// FeatureLevel is the highest feature level that the host knows, as far as it has said.
	FeatureLevel uint32 `json:"featureLevel,omitempty"`
	// KVM reports whether the host runs guests with hardware acceleration.
	KVM bool `json:"kvm"`
	// Unschedulable is true for a cordoned host.
	Unschedulable bool `json:"unschedulable,omitempty"`
	// Lag is how many log entries the host is behind the leader, -1 if unknown.
	Lag int64 `json:"lag"`
}

// DemotedVoter is a host that has voted and may not vote any more.
type DemotedVoter struct {
	Host string `json:"host"`
	// Since is when the host was seen voting last, about.
	Since time.Time `json:"since"`
	// CAKey reports whether it had the key of the CA that signs now; SecretKeys are the keys
	// for Secrets that it had and that are in use.
	CAKey      bool     `json:"caKey,omitempty"`
	SecretKeys []string `json:"secretKeys,omitempty"`
}

// Level tells of the mesh's feature level, which says which rules, kinds and formats the
// mesh uses.
type Level struct {
	// Mesh is the level that the mesh has.
	Mesh uint32 `json:"mesh"`
	// Known is the highest level that the answering host knows.
	Known uint32 `json:"known"`
	// Reachable is the highest level that every host knows, and Newest the highest that any
	// host knows.
	Reachable uint32 `json:"reachable"`
	Newest    uint32 `json:"newest"`
	// HeldUpBy lists the hosts that know less than Newest.
	HeldUpBy []level.Host `json:"heldUpBy,omitempty"`
	// Unheard names the hosts that are not heard now, if there is a level to raise to: a
	// raise asks every host.
	Unheard []string `json:"unheard,omitempty"`
	// Brings says what the mesh may use after a raise, as far as the answering host knows.
	Brings []level.Level `json:"brings,omitempty"`
	// Policy is spec.featureLevel of the MeshConfig: who raises the level.
	Policy string `json:"policy"`
}

// Removed says what was done after the removal of a host, and what is left to do.
type Removed struct {
	// KeysReplaced says that the key of gossip was replaced, which every host knows.
	KeysReplaced bool `json:"keysReplaced"`
	// KeepsKeys says that the host may have the key of the mesh's CA and the keys for Secrets,
	// which a removal does not replace: it voted, or the key was in the state.
	KeepsKeys bool `json:"keepsKeys,omitempty"`
	// CAReplaced says that the mesh's CA was replaced, because the host may have had its key.
	// CAKept says why it was not, although the host may have it; empty otherwise.
	CAReplaced bool   `json:"caReplaced,omitempty"`
	CAKept     string `json:"caKept,omitempty"`
	// MadeBundle says that the newest recovery bundle was made on the host, which may have a copy.
	MadeBundle bool `json:"madeBundle,omitempty"`
	// Tokens are the IDs of the join tokens that were revoked.
	Tokens []string `json:"tokens,omitempty"`
	// Secrets are the Secrets that the host could read, as namespace/name, sorted.
	Secrets []string `json:"secrets,omitempty"`
}

// LevelRequest asks for a raise of the mesh's feature level.
type LevelRequest struct {
	// To is the level that the mesh shall have.
	To uint32 `json:"to"`
}

// TokenRequest asks for a join token.
type TokenRequest struct {
	// TTL is how long the token can be used.
	TTL time.Duration `json:"ttl"`
}

// Token is a join token. Secret is set only in the answer that created it.
type Token struct {
	ID      string    `json:"id"`
	Secret  string    `json:"token,omitempty"`
	Expires time.Time `json:"expires"`
	// UsedBy is the host that joined with the token.
	UsedBy string `json:"usedBy,omitempty"`
}

// CredentialsRequest asks for a person's client certificate. The private key stays with the
// client.
type CredentialsRequest struct {
	// CSR is a PEM certificate request. The names in it are ignored.
	CSR string `json:"csr"`
	// User is the name of the person who shall have it; empty stands for the name of who
	// asks, or for the common administrator if root on the host asks. Only root on a host
	// may name another person, and an administrator a user of the mesh.
	User string `json:"user,omitempty"`
	// Administrator says that it shall be an administrator's, in the name User. Without, User
	// must be a user of the mesh, or who asks; below feature level 6 all are administrators.
	Administrator bool `json:"administrator,omitempty"`
	// TTL is how long it shall be valid, in nanoseconds; zero stands for the default.
	TTL time.Duration `json:"ttl,omitempty"`
}

// Credentials holds what a client needs to write a kubeconfig.
type Credentials struct {
	// Server is the https URL of the answering host.
	Server string `json:"server"`
	// CA and Certificate are PEM.
	CA          string    `json:"ca"`
	Certificate string    `json:"certificate"`
	Expires     time.Time `json:"expires"`
	// User and KeyHash are those of the certificate in the list.
	User    string `json:"user,omitempty"`
	KeyHash string `json:"keyHash,omitempty"`
	// OfUser says that it is that of a user of the mesh, and not an administrator's.
	OfUser bool `json:"ofUser,omitempty"`
}

// Certificates lists the certificates of people.
type Certificates struct {
	Certificates []Certificate `json:"certificates"`
	// UnlistedAccepted says that hosts also take certificates that are not in the list, which
	// earlier versions have signed.
	UnlistedAccepted bool `json:"unlistedAccepted"`
}

// Certificate is a certificate that the mesh has given to a person.
type Certificate struct {
	// KeyHash is the SHA-256 of its public key (SubjectPublicKeyInfo), in hexadecimal.
	KeyHash string `json:"keyHash"`
	User    string `json:"user"`
	// OfUser says that it is that of a user of the mesh, and not an administrator's.
	OfUser bool `json:"ofUser,omitempty"`
	// Host is the host that signed it.
	Host    string    `json:"host,omitempty"`
	Issued  time.Time `json:"issued"`
	Expires time.Time `json:"expires"`
	// RenewedFrom is the hash of the key of the certificate whose owner asked for this one;
	// empty if root on a host asked, or an administrator for a user.
	RenewedFrom string `json:"renewedFrom,omitempty"`
	// IssuedBy is the administrator who asked for the certificate of a user.
	IssuedBy string `json:"issuedBy,omitempty"`
	// Revoked is when it was revoked, RevokedBy by whom.
	Revoked   *time.Time `json:"revoked,omitempty"`
	RevokedBy string     `json:"revokedBy,omitempty"`
	// Unlisted says that the certificate was not in the list when it was revoked.
	Unlisted bool `json:"unlisted,omitempty"`
	// Unreadable is why its record cannot be decoded; no more is known than KeyHash then.
	Unreadable string `json:"unreadable,omitempty"`
}

// RevocationRequest asks to revoke certificates of people. One of its fields is set.
type RevocationRequest struct {
	// Certificate is a user's name, for all certificates of that user, or the hash of a key
	// or at least 8 digits of its beginning.
	Certificate string `json:"certificate,omitempty"`
	// Unlisted ends all certificates that are not in the list.
	Unlisted bool `json:"unlisted,omitempty"`
}
