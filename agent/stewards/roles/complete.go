package roles

import (
	"errors"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-helpers/auth/rbac/reconciliation"
)

// errPlanned is returned by the parts of the library's clients that are never called,
// because it only plans.
var errPlanned = errors.New("this is only planned")

// completeRole returns the role that should be stored: the stored one with what it lacks of
// from, or from itself. The stored one itself is returned if it lacks nothing or is not to be
// touched.
func completeRole(from, stored *rbacv1.ClusterRole, exists bool) (*rbacv1.ClusterRole, error) {
	plan := reconciliation.ReconcileRoleOptions{
		Role:   reconciliation.ClusterRoleRuleOwner{ClusterRole: from.DeepCopy()},
		Client: storedRole{stored, exists},
	}
	planned, err := plan.Run()
	if err != nil {
		return nil, err
	}
	if planned.Protected || planned.Operation == reconciliation.ReconcileNone {
		return stored, nil
	}
	return planned.Role.(reconciliation.ClusterRoleRuleOwner).ClusterRole, nil
}

// completeBinding is completeRole for bindings. If the stored one is of another role, the
// binding that is returned is from.
func completeBinding(from, stored *rbacv1.ClusterRoleBinding, exists bool) (*rbacv1.ClusterRoleBinding, error) {
	plan := reconciliation.ReconcileRoleBindingOptions{
		RoleBinding: reconciliation.ClusterRoleBindingAdapter{ClusterRoleBinding: from.DeepCopy()},
		Client:      storedBinding{stored, exists},
	}
	planned, err := plan.Run()
	if err != nil {
		return nil, err
	}
	if planned.Protected || planned.Operation == reconciliation.ReconcileNone {
		return stored, nil
	}
	return planned.RoleBinding.(reconciliation.ClusterRoleBindingAdapter).ClusterRoleBinding, nil
}

// storedRole shows the library the role that is stored.
type storedRole struct {
	role   *rbacv1.ClusterRole
	exists bool
}

// Get implements reconciliation.RuleOwnerModifier.
func (s storedRole) Get(_, name string) (reconciliation.RuleOwner, error) {
	if !s.exists {
		return nil, apierrors.NewNotFound(rbacv1.Resource("clusterroles"), name)
	}
	return reconciliation.ClusterRoleRuleOwner{ClusterRole: s.role}, nil
}

// Create implements reconciliation.RuleOwnerModifier.
func (storedRole) Create(reconciliation.RuleOwner) (reconciliation.RuleOwner, error) {
	return nil, errPlanned
}

// Update implements reconciliation.RuleOwnerModifier.
func (storedRole) Update(reconciliation.RuleOwner) (reconciliation.RuleOwner, error) {
	return nil, errPlanned
}

// storedBinding shows the library the binding that is stored.
type storedBinding struct {
	binding *rbacv1.ClusterRoleBinding
	exists  bool
}

// Get implements reconciliation.RoleBindingModifier.
func (s storedBinding) Get(_, name string) (reconciliation.RoleBinding, error) {
	if !s.exists {
		return nil, apierrors.NewNotFound(rbacv1.Resource("clusterrolebindings"), name)
	}
	return reconciliation.ClusterRoleBindingAdapter{ClusterRoleBinding: s.binding}, nil
}

// Create implements reconciliation.RoleBindingModifier.
func (storedBinding) Create(reconciliation.RoleBinding) (reconciliation.RoleBinding, error) {
	return nil, errPlanned
}

// Update implements reconciliation.RoleBindingModifier.
func (storedBinding) Update(reconciliation.RoleBinding) (reconciliation.RoleBinding, error) {
	return nil, errPlanned
}

// Delete implements reconciliation.RoleBindingModifier.
func (storedBinding) Delete(_, _ string, _ types.UID) error { return errPlanned }
