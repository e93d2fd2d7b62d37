// Package manifest is the list of the mesh's voters, as it is signed and verified. It is pure:
// it keeps nothing, calls nobody and knows no time.
//
// A manifest says who votes (name, ID and key of each host) and which CAs hosts trust. Each
// version names the hash of the one before and is signed by a majority of the voters of that
// one. So who has verified one version can verify every later one, wherever it comes from, and
// a host that was off learns who votes today although nobody whom it knows is left.
//
// Invariants:
//   - A version follows another one only if a majority of that one's voters has signed it, each
//     with the key that it names (Signed.Follows). No key of a CA counts.
//   - What is signed are the bytes of the body, with a context of their own. So no two readings
//     of a body can differ, and a later version of the program may add fields.
//   - A manifest that begins anew follows none. It is signed by a majority of its own voters,
//     which proves nothing to who does not know these; see Signed.Begins.
//   - What is read is bounded before it is parsed (MaxBytes, MaxVoters, MaxCAs).
package manifest
