package kinds

import (
	"fmt"

	"virtmesh/agent/fault"
	"virtmesh/agent/kinds/meshv1alpha1"
)

// OperationFault returns err as the status of an operation holds it.
func OperationFault(err error) *meshv1alpha1.OperationFault {
	f := fault.Of(err)
	return &meshv1alpha1.OperationFault{Code: string(f.Code), Object: f.Object, Field: f.Field, Sentence: f.Sentence, Remedy: f.Remedy}
}

// OperationError returns why an operation that has ended did not succeed, with the code,
// the object, the field and the remedy of the step's error. It returns nil for one that
// succeeded or has not ended.
func OperationError(o *meshv1alpha1.Operation) error {
	status := o.Status
	switch {
	case !status.Phase.Final() || status.Phase == meshv1alpha1.OperationSucceeded:
		return nil
	case status.Phase == meshv1alpha1.OperationCancelled && status.Message == "":
		return fault.New(fault.Conflict, "operation %s was cancelled", o.Name).About(o.Name)
	case status.Phase == meshv1alpha1.OperationCancelled:
		return fault.New(fault.Conflict, "operation %s was cancelled: %s", o.Name, status.Message).About(o.Name)
	case status.Fault == nil:
		// A host of an earlier version wrote the status.
		return fault.New(fault.Internal, "operation %s failed: %s", o.Name, status.Message).About(o.Name)
	}
	told := status.Fault
	return &fault.Fault{
		Code: fault.Code(told.Code), Object: told.Object, Field: told.Field, Remedy: told.Remedy,
		Sentence: fmt.Sprintf("operation %s failed: %s", o.Name, told.Sentence),
	}
}
