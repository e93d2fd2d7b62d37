// Package kinds is the catalogue of the kinds of objects. Each kind has one
// registration in a file of its own, with its names, Go types, store key, defaults,
// validation, printer columns, selectable fields, generation rule, and the writers of
// each part. The API server, the controllers, the collector and docs/api-coverage.md
// all use the registration for everything that they do for a kind. The catalogue has
// only kinds that the API serves.
//
// To add a kind, see agent/DESIGN.md, "Adding a kind".
//
// This package also defines, once, the rules of every write, for the API and for the
// transactions of package objects: where an object is stored (Kind.StoreKey), when its
// generation changes (Kind.CountGeneration), what prevents its deletion (IsHeld) and
// how a deletion is recorded (MarkDeleted).
//
// The functions of a registration are pure: their only inputs are the object, the old
// object on an update, and the mesh's defaults. If an error can only be detected with
// other objects, the object's controller reports it as a condition.
package kinds
