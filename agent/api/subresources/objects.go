package subresources

import (
	"context"
	"errors"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/fault"
)

// GroupVersion is the group and version of the subresources.
var GroupVersion = schema.GroupVersion{Group: kubevirtv1.SubresourceGroupName, Version: kubevirtv1.ApiLatestVersion}

// AddToScheme registers the group in s. Its resources have the kinds of kubevirt.io to
// which they belong.
func AddToScheme(s *runtime.Scheme) error {
	metav1.AddToGroupVersion(s, GroupVersion)
	return nil
}

// Objects reads and changes the objects of requests. Reads are linearizable. A change
// is repeated if another write comes first.
type Objects interface {
	VirtualMachine(ctx context.Context, namespace, name string) (*kubevirtv1.VirtualMachine, error)
	Instance(ctx context.Context, namespace, name string) (*kubevirtv1.VirtualMachineInstance, error)
	// ChangeVirtualMachine writes the spec, ChangeVirtualMachineStatus the status. fn
	// changes the machine in its currently stored state, and may refuse with an error.
	// It may be called several times.
	ChangeVirtualMachine(ctx context.Context, namespace, name string, dryRun []string, fn func(*kubevirtv1.VirtualMachine) error) error
	ChangeVirtualMachineStatus(ctx context.Context, namespace, name string, dryRun []string, fn func(*kubevirtv1.VirtualMachine) error) error
	// ChangeInstance writes an instance's spec, which clients may not change.
	ChangeInstance(ctx context.Context, namespace, name string, dryRun []string, fn func(*kubevirtv1.VirtualMachineInstance) error) error
	// CreateMigration creates a migration with a generated name.
	CreateMigration(ctx context.Context, m *kubevirtv1.VirtualMachineInstanceMigration, dryRun []string) error
}

var (
	vmResource  = kubevirtv1.Resource("virtualmachine")
	vmiResource = kubevirtv1.Resource("virtualmachineinstance")
)

const (
	vmNotRunning       = "VM is not running"
	vmiNotRunning      = "VMI is not running"
	vmiNotPaused       = "VMI is not paused"
	agentNotConnected  = "VMI does not have guest agent connected"
	snapshotInProgress = "VM snapshot is in progress"
)

// conflictError refuses a request because of the state of an object.
func conflictError(gr schema.GroupResource, name, reason string) error {
	return apierrors.NewConflict(gr, name, errors.New(reason))
}

// hostError converts an error of an instance's host to an API status.
func hostError(name string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, fault.NotFound):
		return apierrors.NewNotFound(vmiResource, name)
	case errors.Is(err, fault.NotRunning):
		return conflictError(vmiResource, name, vmiNotRunning)
	case errors.Is(err, fault.NoGuestAgent):
		return conflictError(vmiResource, name, agentNotConnected)
	case errors.Is(err, fault.Conflict):
		return conflictError(vmiResource, name, err.Error())
	case errors.Is(err, fault.Unreachable):
		return apierrors.NewServiceUnavailable(err.Error())
	}
	return apierrors.NewInternalError(err)
}
