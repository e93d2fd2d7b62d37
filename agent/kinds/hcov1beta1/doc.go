// Package hcov1beta1 holds the Go types of the API group hco.kubevirt.io/v1beta1: the one
// object that configures virtualization, as clients of KubeVirt know it.
//
// The fields and their defaults are those of the HyperConverged Cluster Operator; its own
// module is not used because it cannot be had from the Go module proxy. SetDefaults is the
// only place that defines the defaults. Settings says of each field whether something acts on
// it. Package kinds registers, validates and prints the types. This package imports no other
// package of the module, so that every package can read the configuration. "make generate"
// writes the deep copies and the OpenAPI schemas, whose descriptions are the comments of the
// fields.
//
// +k8s:openapi-gen=true
// +k8s:deepcopy-gen=package
package hcov1beta1

//go:generate go tool deepcopy-gen --output-file zz_generated.deepcopy.go --go-header-file /dev/null virtmesh/agent/kinds/hcov1beta1
