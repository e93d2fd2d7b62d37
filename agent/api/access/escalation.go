package access

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/component-helpers/auth/rbac/validation"
)

// Escalation refuses roles and bindings that give rights which the user who writes them does not
// have where they count. Administrators may give all.
//
// A role may also be written by who has the verb escalate on it, and a binding by who has the verb
// bind on its role. An aggregation rule gathers the rules of other roles, so it takes all rights.
// An update is judged as a whole, even if it leaves the rules as they are: a label can make the
// rules of a ClusterRole part of another one. Only owner references and finalizers change freely.
type Escalation struct {
	*admission.Handler
	roles      *Roles
	authorizer authorizer.Authorizer
}

var _ admission.ValidationInterface = (*Escalation)(nil)

// NewEscalation returns the check, by what roles know and, for the verbs, by what authorizer decides.
func NewEscalation(roles *Roles, authorizer authorizer.Authorizer) *Escalation {
	return &Escalation{Handler: admission.NewHandler(admission.Create, admission.Update), roles: roles, authorizer: authorizer}
}

// Validate implements admission.ValidationInterface.
func (e *Escalation) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if a.GetResource().Group != rbacv1.GroupName || a.GetSubresource() != "" {
		return nil
	}
	u := a.GetUserInfo()
	if u == nil {
		return apierrors.NewInternalError(errors.New("the request has no user"))
	}
	if slices.Contains(u.GetGroups(), user.SystemPrivilegedGroup) || changesOwnersOnly(a.GetObject(), a.GetOldObject()) {
		return nil
	}
	switch o := a.GetObject().(type) {
	case *rbacv1.Role:
		return e.checkRole(ctx, a, o.Rules, false)
	case *rbacv1.ClusterRole:
		old, _ := a.GetOldObject().(*rbacv1.ClusterRole)
		return e.checkRole(ctx, a, o.Rules, aggregates(o) || aggregates(old))
	case *rbacv1.RoleBinding:
		return e.checkBinding(ctx, a, o.RoleRef)
	case *rbacv1.ClusterRoleBinding:
		return e.checkBinding(ctx, a, o.RoleRef)
	}
	return apierrors.NewInternalError(fmt.Errorf("%T in group %s", a.GetObject(), rbacv1.GroupName))
}

// changesOwnersOnly reports whether an update changes nothing but what the collector needs.
func changesOwnersOnly(obj, old runtime.Object) bool {
	if old == nil {
		return false
	}
	obj = obj.DeepCopyObject()
	now, err := meta.Accessor(obj)
	if err != nil {
		return false
	}
	before, err := meta.Accessor(old)
	if err != nil {
		return false
	}
	now.SetOwnerReferences(before.GetOwnerReferences())
	now.SetFinalizers(before.GetFinalizers())
	now.SetManagedFields(before.GetManagedFields())
	now.SetResourceVersion(before.GetResourceVersion())
	return equality.Semantic.DeepEqual(obj, old)
}

func aggregates(role *rbacv1.ClusterRole) bool {
	return role != nil && role.AggregationRule != nil && len(role.AggregationRule.ClusterRoleSelectors) > 0
}

func (e *Escalation) checkRole(ctx context.Context, a admission.Attributes, rules []rbacv1.PolicyRule, aggregates bool) error {
	gr := a.GetResource().GroupResource()
	existing := a.GetName()
	if a.GetOperation() == admission.Create {
		existing = "" // a rule for some names is about roles that are there
	}
	if e.may(ctx, a, "escalate", gr.Resource, existing) {
		return nil
	}
	if err := e.mustHold(ctx, a, rules); err != nil {
		return apierrors.NewForbidden(gr, a.GetName(), err)
	}
	all := []string{"*"}
	everything := []rbacv1.PolicyRule{{Verbs: all, APIGroups: all, Resources: all}, {Verbs: all, NonResourceURLs: all}}
	if aggregates && e.mustHold(ctx, a, everything) != nil {
		return apierrors.NewForbidden(gr, a.GetName(), errors.New("must have cluster-admin privileges to use the aggregationRule"))
	}
	return nil
}

func (e *Escalation) checkBinding(ctx context.Context, a admission.Attributes, ref rbacv1.RoleRef) error {
	resource := "clusterroles"
	if ref.Kind == "Role" {
		resource = "roles"
	}
	if e.may(ctx, a, "bind", resource, ref.Name) {
		return nil
	}
	rules, err := e.roles.RulesOf(ctx, ref, a.GetNamespace())
	if apierrors.IsNotFound(err) {
		return err
	}
	if err == nil {
		err = e.mustHold(ctx, a, rules)
	}
	if err != nil {
		return apierrors.NewForbidden(a.GetResource().GroupResource(), a.GetName(), err)
	}
	return nil
}

// may reports whether the user has a verb on a role in the namespace of the request.
func (e *Escalation) may(ctx context.Context, a admission.Attributes, verb, resource, name string) bool {
	decision, _, _ := e.authorizer.Authorize(ctx, authorizer.AttributesRecord{
		User: a.GetUserInfo(), Verb: verb, Namespace: a.GetNamespace(), ResourceRequest: true,
		APIGroup: rbacv1.GroupName, APIVersion: "*", Resource: resource, Name: name,
	})
	return decision == authorizer.DecisionAllow
}

// mustHold returns an error that names what of rules the user does not have in the namespace of
// the request.
func (e *Escalation) mustHold(ctx context.Context, a admission.Attributes, rules []rbacv1.PolicyRule) error {
	held, unresolved := e.roles.Held(ctx, a.GetUserInfo(), a.GetNamespace())
	covered, missing := validation.Covers(held, rules)
	if covered {
		return nil
	}
	u := a.GetUserInfo()
	text := fmt.Sprintf("user %q (groups=%q) is attempting to grant RBAC permissions not currently held:\n%s",
		u.GetName(), u.GetGroups(), strings.Join(describe(missing), "\n"))
	if unresolved != nil {
		text += fmt.Sprintf("; resolution errors: %v", unresolved)
	}
	return errors.New(text)
}

// maxDescribed bounds how many of the missing rules a refusal names.
const maxDescribed = 100

// describe lists rules of one verb and one resource or path each, in order and without
// repetition. Those that differ in the verb alone are one line.
func describe(rules []rbacv1.PolicyRule) []string {
	type target struct{ group, resource, name string }
	verbs := map[target][]string{}
	var lines []string
	for _, rule := range rules {
		if len(rule.Resources) == 0 {
			lines = append(lines, fmt.Sprintf("{NonResourceURLs:%q, Verbs:%q}", rule.NonResourceURLs, rule.Verbs))
			continue
		}
		t := target{group: rule.APIGroups[0], resource: rule.Resources[0]}
		if len(rule.ResourceNames) > 0 {
			t.name = rule.ResourceNames[0]
		}
		if !slices.Contains(verbs[t], rule.Verbs[0]) {
			verbs[t] = append(verbs[t], rule.Verbs[0])
		}
	}
	for t, v := range verbs {
		line := fmt.Sprintf("{APIGroups:[%q], Resources:[%q]", t.group, t.resource)
		if t.name != "" {
			line += fmt.Sprintf(", ResourceNames:[%q]", t.name)
		}
		lines = append(lines, line+fmt.Sprintf(", Verbs:%q}", v))
	}
	slices.Sort(lines)
	lines = slices.Compact(lines)
	if more := len(lines) - maxDescribed; more > 0 {
		lines = append(lines[:maxDescribed], fmt.Sprintf("and %d more", more))
	}
	return lines
}
