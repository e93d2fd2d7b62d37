package access

import (
	"context"
	"errors"
	"fmt"

	rbacv1 "k8s.io/api/rbac/v1"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"virtmesh/agent/level"
)

var (
	_ authorizer.Authorizer   = (*Roles)(nil)
	_ authorizer.RuleResolver = (*Roles)(nil)
)

// Authorize implements authorizer.Authorizer. It allows what a rule allows, and otherwise has
// no opinion: below level.Access, and when the roles cannot be read in time, about anything. The
// reason names the binding that allows a request, or those whose roles do not exist.
func (r *Roles) Authorize(ctx context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	if r.level() < level.Access {
		return authorizer.DecisionNoOpinion, "", nil
	}
	if err := r.awaitPatiently(ctx); err != nil {
		return authorizer.DecisionNoOpinion, errUnread.Error(), nil
	}
	reason := ""
	errs := r.visit(a.GetUser(), a.GetNamespace(), func(g grant, rule *rbacv1.PolicyRule) bool {
		if allows(rule, a) {
			reason = "RBAC: allowed by " + g.String()
		}
		return reason == ""
	})
	switch {
	case reason != "":
		return authorizer.DecisionAllow, reason, nil
	case len(errs) > 0:
		return authorizer.DecisionNoOpinion, fmt.Sprintf("RBAC: %v", utilerrors.NewAggregate(errs)), nil
	}
	return authorizer.DecisionNoOpinion, "", nil
}

// ConditionsAwareAuthorize implements authorizer.Authorizer: roles have no conditions.
func (r *Roles) ConditionsAwareAuthorize(ctx context.Context, a authorizer.Attributes) authorizer.ConditionsAwareDecision {
	return authorizer.ConditionsAwareDecisionFromParts(r.Authorize(ctx, a))
}

// EvaluateConditions implements authorizer.Authorizer: roles have no conditions.
func (r *Roles) EvaluateConditions(context.Context, authorizer.ConditionsAwareDecision, authorizer.ConditionsData) (authorizer.Decision, string, error) {
	return authorizer.DecisionDeny, "", authorizer.ErrorConditionEvaluationNotSupported
}

// RulesFor implements authorizer.RuleResolver. The list is incomplete, and there is an error, if
// the roles were not read yet. Roles that do not exist are an error, too.
func (r *Roles) RulesFor(ctx context.Context, u user.Info, namespace string) ([]authorizer.ResourceRuleInfo, []authorizer.NonResourceRuleInfo, bool, error) {
	rules, err := r.Held(ctx, u, namespace)
	var resources []authorizer.ResourceRuleInfo
	var paths []authorizer.NonResourceRuleInfo
	for _, rule := range rules {
		if len(rule.Resources) > 0 {
			resources = append(resources, &authorizer.DefaultResourceRuleInfo{
				Verbs: rule.Verbs, APIGroups: rule.APIGroups, Resources: rule.Resources, ResourceNames: rule.ResourceNames,
			})
		}
		if len(rule.NonResourceURLs) > 0 {
			paths = append(paths, &authorizer.DefaultNonResourceRuleInfo{Verbs: rule.Verbs, NonResourceURLs: rule.NonResourceURLs})
		}
	}
	return resources, paths, errors.Is(err, errUnread), err
}

// Held returns the rules that apply to a user in a namespace, or in all if it is empty. With an
// error there may be more of them than are returned. The rules are shared and must not be changed.
func (r *Roles) Held(ctx context.Context, u user.Info, namespace string) ([]rbacv1.PolicyRule, error) {
	if r.level() < level.Access {
		return nil, nil
	}
	if err := r.awaitPatiently(ctx); err != nil {
		return nil, err
	}
	var rules []rbacv1.PolicyRule
	seen := map[*rbacv1.PolicyRule]struct{}{}
	errs := r.visit(u, namespace, func(_ grant, rule *rbacv1.PolicyRule) bool {
		if _, again := seen[rule]; !again {
			seen[rule] = struct{}{}
			rules = append(rules, *rule)
		}
		return true
	})
	return rules, utilerrors.NewAggregate(errs)
}

// RulesOf returns the rules that a binding in a namespace, or a ClusterRoleBinding if it is empty,
// gives that refers to ref. The error is NotFound if there is no such role. The rules are shared
// and must not be changed.
func (r *Roles) RulesOf(ctx context.Context, ref rbacv1.RoleRef, namespace string) ([]rbacv1.PolicyRule, error) {
	if err := r.awaitPatiently(ctx); err != nil {
		return nil, err
	}
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.referred(ref, namespace)
}

func (r *Roles) awaitPatiently(ctx context.Context) error {
	if r.synced.Load() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return r.AwaitSync(ctx)
}

// String describes a grant in the words of Kubernetes.
func (g grant) String() string {
	kind, name := "ClusterRoleBinding", g.binding.key.Name
	if g.binding.key.Namespace != "" {
		kind, name = "RoleBinding", name+"/"+g.binding.key.Namespace
	}
	subject := g.subject.Name
	if g.subject.Kind == rbacv1.ServiceAccountKind {
		subject += "/" + g.subject.Namespace
	}
	return fmt.Sprintf("%s %q of %s %q to %s %q", kind, name, g.binding.role.Kind, g.binding.role.Name, g.subject.Kind, subject)
}
