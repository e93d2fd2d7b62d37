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
	// ChangeInstance writes an instance, including what clients may not change.
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
	vmiPaused          = "VMI is paused"
	agentNotConnected  = "VMI does not have guest agent connected"
	snapshotInProgress = "VM snapshot is in progress"
)

// conflictError refuses a request because of the state of an object.
func conflictError(gr schema.GroupResource, name, reason string) error {
	return statusError(fault.Of(fault.Conflict), gr, name, conflictText(gr, name, reason))
}

// conflictText is the sentence in which KubeVirt tells why the state of an object does
// not allow a request.
func conflictText(gr schema.GroupResource, name, reason string) string {
	return apierrors.NewConflict(gr, name, errors.New(reason)).Error()
}

// statusError returns the API's view of f, with another sentence. It has no Retry-After:
// the request has waited for the host long enough, and clients would repeat an act on a
// guest by themselves.
func statusError(f *fault.Fault, gr schema.GroupResource, name, sentence string) error {
	told := *f
	told.Sentence = sentence
	status := told.StatusError(gr, name)
	status.ErrStatus.Details.RetryAfterSeconds = 0
	return status
}

// notRunning refuses a request for an instance whose guest does not run.
func notRunning(name string) error { return hostError(name, fault.NotRunning) }

// noAgent refuses a request for an instance whose guest agent is not connected.
func noAgent(name string) error { return hostError(name, fault.NoGuestAgent) }

// hostError returns the API's view of an error of an instance's host. Clients of
// KubeVirt read KubeVirt's words where it has some.
func hostError(name string, err error) error {
	if err == nil {
		return nil
	}
	f := fault.Of(err)
	sentence := f.Sentence
	switch f.Code {
	case fault.NotFound:
		sentence = apierrors.NewNotFound(vmiResource, name).Error()
	case fault.NotRunning:
		sentence = conflictText(vmiResource, name, vmiNotRunning)
	case fault.NoGuestAgent:
		sentence = conflictText(vmiResource, name, agentNotConnected)
	case fault.Conflict:
		sentence = conflictText(vmiResource, name, sentence)
	}
	return statusError(f, vmiResource, name, sentence)
}
