// Package access decides what users may do, by the roles and bindings of
// rbac.authorization.k8s.io/v1 as the local replica has them, and keeps users from giving
// rights that they do not have themselves.
//
// The rules are Kubernetes': rights only add up, there is none that takes away. A binding in a
// namespace gives the rules of its role there, a ClusterRoleBinding everywhere. A binding whose
// role does not exist gives nothing, and is reported with the reason of a refusal.
//
// Roles knows the bindings by the users and groups that they name, so what a decision costs
// depends on what the user has, and not on how many bindings the mesh has.
//
// Each host decides by its own copy. A change of roles takes effect on a host as soon as its
// replica has it, and on a host that is cut off not until it is back. It ends no watch and no
// stream that is open: requests are judged when they begin.
package access
