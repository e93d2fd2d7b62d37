package meshv1alpha1

import (
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Operation is a long task on the mesh, in several steps. It continues when the command
// that created it ends and when the host that carries it out dies. Operations are
// cluster-wide: most of them concern hosts, which have no namespace. An operation on an
// object in a namespace names the object in spec.target.
//
// One host at a time carries out an operation. When that host dies, another host
// continues with the first step that is not done.
//
// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object
type Operation struct {
	metav1.TypeMeta `json:",inline"`
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// Spec says what to do. Only its field cancel can be changed.
	// +optional
	Spec OperationSpec `json:"spec,omitempty"`
	// Status says how far the operation has come.
	// +optional
	Status OperationStatus `json:"status,omitempty"`
}

// OperationList is a list of Operation.
//
// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object
type OperationList struct {
	metav1.TypeMeta `json:",inline"`
	// +optional
	metav1.ListMeta `json:"metadata,omitempty"`

	// Items holds the objects of the list.
	Items []Operation `json:"items"`
}

// OperationSpec says what to do.
type OperationSpec struct {
	// Type says what the operation does. RemoveHost removes a host from the mesh that is
	// dead and will not come back. RotateGossipKey replaces the key that encrypts gossip
	// between the hosts; it needs feature level 4. RotateCA replaces the mesh's CA; it needs
	// feature level 5 and a recovery bundle.
	Type OperationType `json:"type"`
	// Target names what the operation acts on: a host by its name, an object as
	// namespace/name, gossip-key, or ca.
	Target string `json:"target"`
	// RequestedBy is the user who created the operation, as the mesh authenticated the
	// user; what a client writes here is replaced. Everyone who uses an administrator's
	// certificate of the mesh is virtmesh:admin, and root who uses the API on a host is
	// system:node: and the name of the host: then nobody but the host is known.
	// +optional
	RequestedBy string `json:"requestedBy,omitempty"`
	// Machine is the ID of the machine that had the name in target when a host's removal
	// was requested. If another machine has joined under the name since, the operation
	// fails and does not touch it. If empty, the machine that has the name is removed.
	// +optional
	Machine string `json:"machine,omitempty"`
	// Force removes the host even if the mesh still hears it, or cannot tell. Its guests
	// may still run then; those that the mesh starts again elsewhere run twice and can
	// destroy their shared disks. Switch the machine off before.
	// +optional
	Force bool `json:"force,omitempty"`
	// KeepKeys removes the host without replacing the keys that it knows.
	// +optional
	KeepKeys bool `json:"keepKeys,omitempty"`
	// ReplaceCA replaces the mesh's CA after the removal of a host that may have its key.
	// +optional
	ReplaceCA bool `json:"replaceCA,omitempty"`
	// DeadlineSeconds is for how long hosts that were off while the CA was replaced can come
	// back by themselves, and listed certificates of administrators that the former CA signed
	// are taken; at most 30 days. If 0, it is 7 days.
	// +optional
	DeadlineSeconds int64 `json:"deadlineSeconds,omitempty"`
	// Cancel asks the operation to stop before its next step, and to undo the steps that
	// can be undone. Once true, it stays true.
	// +optional
	Cancel bool `json:"cancel,omitempty"`
}

// OperationType says what an operation does.
type OperationType string

// GossipKey is the target of an operation that replaces the key that encrypts gossip.
const GossipKey = "gossip-key"

// CA is the target of an operation that replaces the mesh's CA.
const CA = "ca"

// MaxDeadlineSeconds bounds OperationSpec.DeadlineSeconds.
const MaxDeadlineSeconds = 30 * 24 * 60 * 60

// The types of operation.
const (
	// RemoveHost removes a host from the mesh that is dead and will not come back.
	RemoveHost OperationType = "RemoveHost"
	// RotateGossipKey replaces the key that encrypts gossip between the hosts.
	RotateGossipKey OperationType = "RotateGossipKey"
	// RotateCA replaces the mesh's CA.
	RotateCA OperationType = "RotateCA"
)

// OperationPhase says in one word how far an operation has come.
type OperationPhase string

// The phases of an operation. The last three are final. The phase is empty before a host
// has begun the operation.
const (
	OperationRunning   OperationPhase = "Running"
	OperationSucceeded OperationPhase = "Succeeded"
	OperationFailed    OperationPhase = "Failed"
	OperationCancelled OperationPhase = "Cancelled"
)

// Final reports whether the operation has ended.
func (p OperationPhase) Final() bool {
	return p == OperationSucceeded || p == OperationFailed || p == OperationCancelled
}

// OperationStatus says how far an operation has come.
type OperationStatus struct {
	// Phase is Running, Succeeded, Failed or Cancelled. It is empty before a host has
	// begun the operation.
	// +optional
	Phase OperationPhase `json:"phase,omitempty"`
	// Message says why the operation failed, what it is waiting for, or, when it has ended,
	// what it leaves to do.
	// +optional
	Message string `json:"message,omitempty"`
	// Fault is the error that the message tells of.
	// +optional
	Fault *OperationFault `json:"fault,omitempty"`
	// Owner is the host that carries out the operation.
	// +optional
	Owner *OperationOwner `json:"owner,omitempty"`
	// Steps lists the steps of the operation in order.
	// +optional
	Steps []OperationStep `json:"steps,omitempty"`
	// Started is when the first host began the operation.
	// +optional
	Started *metav1.Time `json:"started,omitempty"`
	// Ended is when the operation reached its final phase.
	// +optional
	Ended *metav1.Time `json:"ended,omitempty"`
}

// OperationFault is an error of an operation in a form for programs.
type OperationFault struct {
	// Code is the kind of error, such as Conflict or NotFound.
	Code string `json:"code"`
	// Object names the object that the error is about.
	// +optional
	Object string `json:"object,omitempty"`
	// Field is the path of the field that must be corrected.
	// +optional
	Field string `json:"field,omitempty"`
	// Sentence says what is wrong.
	Sentence string `json:"sentence"`
	// Remedy says what to do.
	// +optional
	Remedy string `json:"remedy,omitempty"`
}

// OperationOwner is the lease of the host that carries out an operation. Another host
// takes the operation over when the lease is not renewed.
type OperationOwner struct {
	// Host is the name of the host.
	Host string `json:"host"`
	// Epoch is one higher for each host that takes the operation over.
	Epoch int64 `json:"epoch"`
	// Renewed is when the host last renewed the lease.
	Renewed metav1.MicroTime `json:"renewed"`
}

// OperationStepPhase says how far a step has come.
type OperationStepPhase string

// The phases of a step.
const (
	StepPending OperationStepPhase = "Pending"
	StepRunning OperationStepPhase = "Running"
	StepDone    OperationStepPhase = "Done"
	StepFailed  OperationStepPhase = "Failed"
	StepUndone  OperationStepPhase = "Undone"
)

// OperationStep is one step of an operation. Carrying it out twice has the same effect
// as carrying it out once.
type OperationStep struct {
	// Name says what the step does.
	Name string `json:"name"`
	// Phase is Pending, Running, Done, Failed, or Undone after a cancellation.
	Phase OperationStepPhase `json:"phase"`
	// Message says why the step failed, why it is being retried, or what it did.
	// +optional
	Message string `json:"message,omitempty"`
	// Done is how many of the step's items are finished, if the step counts them.
	// +optional
	Done int64 `json:"done,omitempty"`
	// Total is how many items the step has, if it counts them.
	// +optional
	Total int64 `json:"total,omitempty"`
	// Started is when the step began.
	// +optional
	Started *metav1.Time `json:"started,omitempty"`
	// Ended is when the step was finished.
	// +optional
	Ended *metav1.Time `json:"ended,omitempty"`
}

// OperationSummary says in one word, for people, how far an operation has come.
func OperationSummary(o *Operation) string {
	switch {
	case o.Status.Phase.Final():
		return string(o.Status.Phase)
	case o.Spec.Cancel:
		return "Cancelling"
	case o.Status.Phase == "":
		return "Pending"
	}
	return string(o.Status.Phase)
}

// OperationProgress names the step that an operation has reached, such as "3/6 release
// volumes". It is empty before a host has begun the operation.
func OperationProgress(o *Operation) string {
	steps := o.Status.Steps
	done := 0
	for _, s := range steps {
		if s.Phase != StepDone {
			break
		}
		done++
	}
	switch {
	case len(steps) == 0:
		return ""
	case done == len(steps):
		return fmt.Sprintf("%d/%d", done, done)
	case steps[done].Total > 0:
		return fmt.Sprintf("%d/%d %s (%d of %d)", done+1, len(steps), steps[done].Name, steps[done].Done, steps[done].Total)
	}
	return fmt.Sprintf("%d/%d %s", done+1, len(steps), steps[done].Name)
}
