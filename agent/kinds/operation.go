package kinds

import (
	"fmt"

	"k8s.io/apimachinery/pkg/util/validation/field"

	"virtmesh/agent/hostname"
	"virtmesh/agent/kinds/meshv1alpha1"
)

func operationKind() *Kind {
	type operation = meshv1alpha1.Operation
	return &Kind{
		GVK: meshv1alpha1.SchemeGroupVersion.WithKind("Operation"), Resource: "operations", Singular: "operation",
		ShortNames: []string{"op", "ops"}, Status: true, Generation: true,
		Object: &operation{}, List: &meshv1alpha1.OperationList{},
		Support:        "works: long acts on the mesh and how far they are; the types are `RemoveHost`, `RotateGossipKey` and `RotateCA`. See [operate.md](operate.md)",
		Writers:        Writers{Spec: "users; the API for `virtmesh node remove`, `virtmesh gossip rotate-key` and `virtmesh ca rotate`", Status: "stewards/operation"},
		Validate:       validateWith(validateOperation),
		ValidateUpdate: validateUpdateWith(validateOperationUpdate),
		Columns: []Column{
			column("Type", func(o *operation) any { return string(o.Spec.Type) }),
			column("Target", func(o *operation) any { return o.Spec.Target }),
			column("Status", func(o *operation) any { return meshv1alpha1.OperationSummary(o) }),
			column("Step", func(o *operation) any { return meshv1alpha1.OperationProgress(o) }),
			wideColumn("Owner", func(o *operation) any {
				if o.Status.Owner == nil {
					return nil
				}
				return o.Status.Owner.Host
			}),
			wideColumn("Message", func(o *operation) any { return o.Status.Message }),
			age,
		},
	}
}

func validateOperation(o *meshv1alpha1.Operation) field.ErrorList {
	spec := field.NewPath("spec")
	errs := checkOneOf(spec.Child("type"), o.Spec.Type, []meshv1alpha1.OperationType{meshv1alpha1.RemoveHost, meshv1alpha1.RotateGossipKey, meshv1alpha1.RotateCA})
	target := spec.Child("target")
	switch {
	case o.Spec.Target == "":
		errs = append(errs, field.Required(target, "name what the operation is done to"))
	case o.Spec.Type == meshv1alpha1.RemoveHost:
		if err := hostname.Validate(o.Spec.Target); err != nil {
			errs = append(errs, field.Invalid(target, hostname.Clip(o.Spec.Target), err.Error()))
		}
	case o.Spec.Type == meshv1alpha1.RotateCA && o.Spec.Target != meshv1alpha1.CA:
		errs = append(errs, field.NotSupported(target, hostname.Clip(o.Spec.Target), []string{meshv1alpha1.CA}))
	case o.Spec.Type == meshv1alpha1.RotateGossipKey && o.Spec.Target != meshv1alpha1.GossipKey:
		errs = append(errs, field.NotSupported(target, hostname.Clip(o.Spec.Target), []string{meshv1alpha1.GossipKey}))
	}
	if seconds := o.Spec.DeadlineSeconds; seconds < 0 || seconds > meshv1alpha1.MaxDeadlineSeconds {
		errs = append(errs, field.Invalid(spec.Child("deadlineSeconds"), seconds, fmt.Sprintf("must be from 0 to %d", meshv1alpha1.MaxDeadlineSeconds)))
	}
	return errs
}

// validateOperationUpdate allows only one change of the spec: setting cancel.
func validateOperationUpdate(o, old *meshv1alpha1.Operation) field.ErrorList {
	path := field.NewPath("spec")
	was, is := old.Spec, o.Spec
	if was.Cancel && !is.Cancel {
		return field.ErrorList{field.Forbidden(path.Child("cancel"), "a cancellation cannot be taken back")}
	}
	was.Cancel, is.Cancel = false, false
	if was != is {
		return field.ErrorList{field.Forbidden(path, fmt.Sprintf("only cancel may change of an operation that exists; make another one for %s of %s", is.Type, is.Target))}
	}
	return nil
}
