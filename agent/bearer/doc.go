// Package bearer knows the tokens of service accounts: what one says, who can sign it, and how
// its signature is judged. It is pure: whether the account of a token still exists is for those
// to find out who have the objects of the mesh.
//
// A token is a JSON Web Token (RFC 7519) signed with ECDSA on the curve P-256 (ES256), with the
// claims that Kubernetes gives the tokens of service accounts, so that programs which read these
// can read it.
//
// The key that signs is made from a key for Secrets (sealed.PrivateKey), in one direction: who
// has the key for Secrets has the signing key too, and the signing key opens no Secret. So it is
// where the other is (the keyring of the voters, the recovery bundle and its escrow), is replaced
// together with it, and is never stored itself. The public half is in the state of the mesh, since
// every host judges tokens and few can make the private half.
package bearer
