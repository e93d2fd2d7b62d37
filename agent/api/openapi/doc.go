// Package openapi holds the OpenAPI definitions of every type that the API serves.
//
// The definitions are generated from the Go types and drive three things: the documents
// below /openapi, field validation, and the field manager of server-side apply. Run
// "make generate" after adding a kind or upgrading a library; never edit the generated
// file by hand.
package openapi

//go:generate go tool openapi-gen --output-dir . --output-pkg virtmesh/agent/api/openapi --output-file zz_generated.openapi.go --go-header-file /dev/null --report-filename /dev/null k8s.io/apimachinery/pkg/apis/meta/v1 k8s.io/apimachinery/pkg/runtime k8s.io/apimachinery/pkg/version k8s.io/apimachinery/pkg/api/resource k8s.io/apimachinery/pkg/util/intstr k8s.io/api/authentication/v1 k8s.io/api/authorization/v1 k8s.io/api/core/v1 k8s.io/api/coordination/v1 k8s.io/api/events/v1 k8s.io/api/policy/v1 k8s.io/api/rbac/v1 k8s.io/api/storage/v1 kubevirt.io/api/core/v1 kubevirt.io/api/backup/v1alpha1 kubevirt.io/api/clone/v1beta1 kubevirt.io/api/export/v1beta1 kubevirt.io/api/instancetype/v1beta1 kubevirt.io/api/migrations/v1alpha1 kubevirt.io/api/pool/v1beta1 kubevirt.io/api/snapshot/v1beta1 kubevirt.io/containerized-data-importer-api/pkg/apis/core/v1beta1 kubevirt.io/containerized-data-importer-api/pkg/apis/upload/v1beta1 kubevirt.io/controller-lifecycle-operator-sdk/api github.com/openshift/custom-resource-status/conditions/v1 virtmesh/agent/kinds/hcov1beta1 virtmesh/agent/kinds/meshv1alpha1
