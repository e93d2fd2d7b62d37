// Package skew lets hosts of different versions write the same records.
//
// A host decodes a record into the Go type that its version has, changes it, and writes
// it back. What a newer version has put into the record does not fit into that type, so
// it would be lost. KeepUnknown puts it back: a version changes what it knows, and leaves
// the rest as it is stored.
//
// Everything that decodes a stored record and writes it back goes through this package:
// objects.Tx for API objects, claims and raw objects, agent/api/store for the writes of
// clients, agent/identity for the records of the mesh. It is pure; it knows no kinds and
// no store.
package skew
