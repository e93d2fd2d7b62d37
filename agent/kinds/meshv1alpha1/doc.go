// Package meshv1alpha1 holds the Go types of the API group mesh.virtmesh.io/v1alpha1:
// the settings of the whole mesh, and operations on it.
//
// The types define the wire format. Effective is the only place that defines the
// defaults of the settings. Package kinds registers, validates and prints the types.
// This package imports no other package of the module, so that every package can read
// the settings.
//
// +k8s:openapi-gen=true
package meshv1alpha1
