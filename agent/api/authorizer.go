package api

import (
	"context"
	"slices"

	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"virtmesh/agent/api/access"
	"virtmesh/agent/level"
)

// judge decides what clients may do. Everyone may read the open paths, administrators may do
// everything, and others what their roles say. Below level.Access hosts may do everything too, and
// others nothing.
type judge struct {
	roles *access.Roles // nil: nobody has rights by roles
	level func() uint32
}

var (
	_ authorizer.Authorizer   = judge{}
	_ authorizer.RuleResolver = judge{}
)

// mayAll reports whether a user may do everything.
func (j judge) mayAll(u user.Info) bool {
	groups := u.GetGroups()
	return slices.Contains(groups, user.SystemPrivilegedGroup) || slices.Contains(groups, user.NodesGroup) && j.level() < level.Access
}

// Authorize implements authorizer.Authorizer.
func (j judge) Authorize(ctx context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	switch {
	case a.IsReadOnly() && slices.Contains(openPaths, a.GetPath()), j.mayAll(a.GetUser()):
		return authorizer.DecisionAllow, "", nil
	case j.roles == nil:
		return authorizer.DecisionNoOpinion, "", nil
	}
	return j.roles.Authorize(ctx, a)
}

// ConditionsAwareAuthorize implements authorizer.Authorizer: no decision has conditions.
func (j judge) ConditionsAwareAuthorize(ctx context.Context, a authorizer.Attributes) authorizer.ConditionsAwareDecision {
	return authorizer.ConditionsAwareDecisionFromParts(j.Authorize(ctx, a))
}

// EvaluateConditions implements authorizer.Authorizer: no decision has conditions.
func (j judge) EvaluateConditions(context.Context, authorizer.ConditionsAwareDecision, authorizer.ConditionsData) (authorizer.Decision, string, error) {
	return authorizer.DecisionDeny, "", authorizer.ErrorConditionEvaluationNotSupported
}

// RulesFor implements authorizer.RuleResolver.
func (j judge) RulesFor(ctx context.Context, u user.Info, namespace string) ([]authorizer.ResourceRuleInfo, []authorizer.NonResourceRuleInfo, bool, error) {
	if j.mayAll(u) {
		all := []string{"*"}
		return []authorizer.ResourceRuleInfo{&authorizer.DefaultResourceRuleInfo{Verbs: all, APIGroups: all, Resources: all}},
			[]authorizer.NonResourceRuleInfo{&authorizer.DefaultNonResourceRuleInfo{Verbs: all, NonResourceURLs: all}}, false, nil
	}
	if j.roles == nil {
		return nil, nil, false, nil
	}
	return j.roles.RulesFor(ctx, u, namespace)
}
