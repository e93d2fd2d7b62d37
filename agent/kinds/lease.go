package kinds

import (
	coordinationv1 "k8s.io/api/coordination/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func leaseKind() *Kind {
	type lease = coordinationv1.Lease
	return &Kind{
		GVK: coordinationv1.SchemeGroupVersion.WithKind("Lease"), Resource: "leases", Singular: "lease", Namespaced: true,
		Object: &lease{}, List: &coordinationv1.LeaseList{},
		Support:        "works as a store, for clients' own leader elections",
		Writers:        Writers{Spec: users},
		Validate:       validateWith(validateLease),
		ValidateUpdate: validateUpdateWith(func(l, _ *lease) field.ErrorList { return validateLease(l) }),
		Columns: []Column{
			column("Holder", func(l *lease) any { return deref(l.Spec.HolderIdentity) }),
			age,
		},
	}
}

func validateLease(l *coordinationv1.Lease) field.ErrorList {
	path := field.NewPath("spec")
	var errs field.ErrorList
	if d := l.Spec.LeaseDurationSeconds; d != nil && *d <= 0 {
		errs = append(errs, field.Invalid(path.Child("leaseDurationSeconds"), *d, "must be greater than 0"))
	}
	if t := l.Spec.LeaseTransitions; t != nil && *t < 0 {
		errs = append(errs, field.Invalid(path.Child("leaseTransitions"), *t, "must not be negative"))
	}
	return errs
}
