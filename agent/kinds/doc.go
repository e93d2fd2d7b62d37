// Package kinds is the catalogue of what the API serves: one registration per
// kind, which says its names, Go types, defaults, validation, printer columns and
// selectable fields. Everything else the API does for a kind follows from its
// registration.
//
// To serve a further kind, add its registration to the file of its API group and,
// when its Go types are new, their package to the go:generate line of package
// openapi.
//
// The functions of a registration are pure: they see the object, and on an update
// the old one, and nothing else. A fault that needs other objects to be seen is
// reported by the object's controller as a condition.
package kinds
