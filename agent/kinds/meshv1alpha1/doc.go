// Package meshv1alpha1 holds the Go types of the API group mesh.virtmesh.io/v1alpha1:
// the settings of the whole mesh, and operations on it.
//
// The types define the wire format. Effective is the only place that defines the
// defaults of the settings. Package kinds registers, validates and prints the types.
// This package imports no other package of the module, so that every package can read
// the settings. "make generate" writes the deep copies and the OpenAPI schemas, whose
// descriptions are the comments of the fields.
//
// +k8s:openapi-gen=true
// +k8s:deepcopy-gen=package
package meshv1alpha1

//go:generate go tool deepcopy-gen --output-file zz_generated.deepcopy.go --go-header-file /dev/null virtmesh/agent/kinds/meshv1alpha1
