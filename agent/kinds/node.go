package kinds

import (
	"sort"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

const roleLabel = "node-role.kubernetes.io/"

func nodeKind() *Kind {
	type node = corev1.Node
	return &Kind{
		GVK: core("Node"), Resource: "nodes", Singular: "node", ShortNames: []string{"no"}, Status: true,
		Object: &node{}, List: &corev1.NodeList{},
		Support:        "works: capacity, conditions, labels, taints, `spec.unschedulable`",
		Writers:        Writers{Spec: "host/publish; labels, taints and `unschedulable` by users; taints of lost hosts by stewards/nodes", Status: "host/publish, stewards/nodes"},
		Validate:       validateWith(validateNode),
		ValidateUpdate: validateUpdateWith(func(n, _ *node) field.ErrorList { return validateNode(n) }),
		Columns: []Column{
			column("Status", func(n *node) any { return nodeStatus(n) }),
			column("Roles", func(n *node) any { return joined(nodeRoles(n)) }),
			age,
			column("Version", func(n *node) any { return n.Status.NodeInfo.KubeletVersion }),
			wideColumn("Internal-IP", func(n *node) any { return nodeAddress(n, corev1.NodeInternalIP) }),
			wideColumn("External-IP", func(n *node) any { return nodeAddress(n, corev1.NodeExternalIP) }),
			wideColumn("OS-Image", func(n *node) any { return orUnknown(n.Status.NodeInfo.OSImage) }),
			wideColumn("Kernel-Version", func(n *node) any { return orUnknown(n.Status.NodeInfo.KernelVersion) }),
			wideColumn("Container-Runtime", func(n *node) any { return orUnknown(n.Status.NodeInfo.ContainerRuntimeVersion) }),
		},
		Fields: map[string]func(obj runtimeObject) string{
			"spec.unschedulable": forType(func(n *node) string {
				if n.Spec.Unschedulable {
					return "true"
				}
				return "false"
			}),
		},
	}
}

func validateNode(n *corev1.Node) field.ErrorList {
	var errs field.ErrorList
	effects := []corev1.TaintEffect{corev1.TaintEffectNoSchedule, corev1.TaintEffectPreferNoSchedule, corev1.TaintEffectNoExecute}
	seen := map[string]bool{}
	for i, t := range n.Spec.Taints {
		path := field.NewPath("spec", "taints").Index(i)
		errs = append(errs, validateLabelKey(path.Child("key"), t.Key)...)
		errs = append(errs, validateLabelValue(path.Child("value"), t.Value)...)
		errs = append(errs, checkOneOf(path.Child("effect"), t.Effect, effects)...)
		id := t.Key + ":" + string(t.Effect)
		if seen[id] {
			errs = append(errs, field.Duplicate(path, t.Key))
		}
		seen[id] = true
	}
	return errs
}

func nodeStatus(n *corev1.Node) string {
	state := "Unknown"
	for _, c := range n.Status.Conditions {
		switch {
		case c.Type != corev1.NodeReady:
		case c.Status == corev1.ConditionTrue:
			state = "Ready"
		default:
			state = "NotReady"
		}
	}
	if n.Spec.Unschedulable {
		state += ",SchedulingDisabled"
	}
	return state
}

func nodeRoles(n *corev1.Node) []string {
	var roles []string
	for label := range n.Labels {
		if role, ok := strings.CutPrefix(label, roleLabel); ok && role != "" {
			roles = append(roles, role)
		}
	}
	sort.Strings(roles)
	return roles
}

func nodeAddress(n *corev1.Node, typ corev1.NodeAddressType) any {
	for _, a := range n.Status.Addresses {
		if a.Type == typ {
			return a.Address
		}
	}
	return nil
}

func orUnknown(s string) string {
	if s == "" {
		return unknown
	}
	return s
}
