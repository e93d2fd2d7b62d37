// Package kinds is the catalogue of the kinds of objects that there are: one
// registration in one file for each, which says its names, Go types, key in the
// store, defaults, validation, printer columns, selectable fields, how its
// generation counts and who writes which part of it. The API server, the
// controllers, the collector and docs/api-coverage.md read it, and everything else
// that they do for a kind follows from its registration. A kind that is not served
// is not in it.
//
// To add a kind, see agent/DESIGN.md, "Adding a kind".
//
// The rules that every write keeps stand here, once, for the API's writes and for
// the transactions of package objects: where an object lives (Kind.StoreKey), when
// its generation moves (Kind.CountGeneration), what keeps it from going (IsHeld) and
// what asking for its deletion does to it (MarkDeleted).
//
// The functions of a registration are pure: they see the object, on an update the
// old one, and the choices of the mesh, and nothing else. A fault that needs other
// objects to be seen is reported by the object's controller as a condition.
package kinds
