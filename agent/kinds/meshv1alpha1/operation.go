package meshv1alpha1

import (
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Operation is a long act on the mesh, of several steps, that outlives the
// command and the host that began it. It is cluster-wide: most such acts concern
// hosts, which have no namespace; one on an object with a namespace names it in
// spec.target.
//
// One host at a time carries an operation out. When that host dies, another
// goes on with the first step that is not done.
type Operation struct {
	metav1.TypeMeta `json:",inline"`
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// Spec says what is to be done. Only cancel may change.
	// +optional
	Spec OperationSpec `json:"spec,omitempty"`
	// Status says how far it is.
	// +optional
	Status OperationStatus `json:"status,omitempty"`
}

// OperationList is a list of Operation.
type OperationList struct {
	metav1.TypeMeta `json:",inline"`
	// +optional
	metav1.ListMeta `json:"metadata,omitempty"`

	// Items are the objects of the list.
	Items []Operation `json:"items"`
}

// OperationSpec says what is to be done.
type OperationSpec struct {
	// Type is the kind of act. RemoveHost takes a host out of the mesh that is dead
	// and will not come back.
	Type OperationType `json:"type"`
	// Target is what the act is done to: a host, or an object as namespace/name.
	Target string `json:"target"`
	// RequestedBy names who asked for it.
	// +optional
	RequestedBy string `json:"requestedBy,omitempty"`
	// Cancel asks for the operation to stop before its next step, and to undo the
	// steps that can be undone. It cannot be taken back.
	// +optional
	Cancel bool `json:"cancel,omitempty"`
}

// OperationType is a kind of act.
type OperationType string

// RemoveHost takes a host out of the mesh that is dead and will not come back.
const RemoveHost OperationType = "RemoveHost"

// OperationPhase says in one word how far an operation is.
type OperationPhase string

// The phases of an operation. The last three are final. The empty phase is that
// of one which no host has begun.
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

// OperationStatus says how far an operation is.
type OperationStatus struct {
	// Phase is Running, Succeeded, Failed or Cancelled; empty before a host has
	// begun.
	// +optional
	Phase OperationPhase `json:"phase,omitempty"`
	// Message says why the operation failed, or what it waits for.
	// +optional
	Message string `json:"message,omitempty"`
	// Owner is the host that carries it out.
	// +optional
	Owner *OperationOwner `json:"owner,omitempty"`
	// Steps are what the operation is made of, in order.
	// +optional
	Steps []OperationStep `json:"steps,omitempty"`
	// Started and Ended are when the first host began it and when it reached its
	// final phase.
	// +optional
	Started *metav1.Time `json:"started,omitempty"`
	// +optional
	Ended *metav1.Time `json:"ended,omitempty"`
}

// OperationOwner is the lease of the host that carries an operation out. Another
// host takes over when the lease is not renewed.
type OperationOwner struct {
	// Host is the name of the host.
	Host string `json:"host"`
	// Epoch grows with every host that takes the operation over.
	Epoch int64 `json:"epoch"`
	// Renewed is when the host last said that it is at work.
	Renewed metav1.MicroTime `json:"renewed"`
}

// OperationStepPhase says how far a step is.
type OperationStepPhase string

// The phases of a step.
const (
	StepPending OperationStepPhase = "Pending"
	StepRunning OperationStepPhase = "Running"
	StepDone    OperationStepPhase = "Done"
	StepFailed  OperationStepPhase = "Failed"
	StepUndone  OperationStepPhase = "Undone"
)

// OperationStep is one step of an operation. Doing it twice is the same as doing
// it once.
type OperationStep struct {
	// Name says what is done.
	Name string `json:"name"`
	// Phase is Pending, Running, Done, Failed, or Undone after a cancellation.
	Phase OperationStepPhase `json:"phase"`
	// Message says why the step is tried again or has failed.
	// +optional
	Message string `json:"message,omitempty"`
	// Done and Total are how much of the step is finished, where it can tell.
	// +optional
	Done int64 `json:"done,omitempty"`
	// +optional
	Total int64 `json:"total,omitempty"`
	// Started and Ended are when the step began and when it was finished.
	// +optional
	Started *metav1.Time `json:"started,omitempty"`
	// +optional
	Ended *metav1.Time `json:"ended,omitempty"`
}

// OperationSummary says in one word how far an operation is, for people.
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

// OperationProgress names the step that an operation is at: "3/6 release
// volumes". It is empty before a host has begun.
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
