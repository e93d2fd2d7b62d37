// Package roles keeps the roles that every mesh has from the start, and gathers the rules of
// aggregated roles.
//
// From feature level level.Access on, each object of Bootstrap is made where it is missing
// and completed where a rule, a subject, a label or an annotation of it is missing, as a
// kube-apiserver does when it starts. What administrators have added stays. An object whose
// annotation rbac.authorization.kubernetes.io/autoupdate is "false" is left as it is; only
// its deletion brings the original back.
//
// A ClusterRole with an aggregationRule has the rules of all ClusterRoles that its selectors
// match, and no others. Through aggregated roles among them, rules are taken from the roles
// that have rules of their own, so two that aggregate each other settle, and lose what their
// sources lose.
package roles
