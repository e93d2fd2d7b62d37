// Package meshv1alpha1 holds the Go types of the API group
// mesh.virtmesh.io/v1alpha1: the settings of the mesh as a whole.
//
// The types carry the wire format and its defaults, which stand in Effective and
// nowhere else. They are registered, validated and printed by package kinds. The
// package imports nothing of this module, so that everyone can read the settings.
//
// +k8s:openapi-gen=true
package meshv1alpha1
