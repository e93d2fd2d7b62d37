// Package tokens lets programs use the API as service accounts. It answers requests for a token
// (the subresource "token" of a ServiceAccount), for which a voter signs, and it recognises the
// tokens that clients show.
//
// Any host judges a token by itself: its signature by the public keys in the state of the mesh,
// and whether the account, and the Secret that the token may be bound to, are still there under
// the same UIDs, by its copy of the state. Nothing is kept between two requests, so a token ends
// with the deletion of its account as soon as the host's copy has it. Requests that last (watches,
// consoles) are kept in Sessions, which ends them at the same moment.
package tokens
