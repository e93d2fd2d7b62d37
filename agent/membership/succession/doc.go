// Package succession keeps the list of the mesh's voters on a host: package manifest says what
// a list is, this one makes, signs, follows and fetches them.
//
// The lists stand in the replicated state, one record a version (Prefix). The leader proposes
// the next one when the voters or the trusted CAs are others than the newest one says; voters of
// the newest one sign it, by a write, if their own copy of the state and their own Raft
// configuration say the same; the leader publishes it once a majority has signed.
//
// Every host follows: it keeps the newest list that it has verified from the one before, on disk
// beside its identity. A host that does not hear its leader asks others for later lists. It
// need not know or trust who answers, since a list proves itself.
//
// Invariants:
//   - A list becomes a host's own only if it follows the one that the host has, or if the voters
//     that it believes have confirmed the state that holds the list, and it names no voters but
//     those of the host's own copy, from no later log index; see acceptable.
//   - A voter signs nothing but what it would propose itself, of a state that is confirmed, when a
//     next list is due: any host can write what waits for signatures.
//   - What is published is never changed, and the versions have no gap but at the old end (Kept).
//     Any host can write there too; the leader puts right what does not lead to its own list.
//   - A mesh whose voters stay the same writes nothing.
//   - Below level.Succession the package does nothing.
package succession
