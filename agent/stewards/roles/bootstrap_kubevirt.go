package roles

import (
	rbacv1 "k8s.io/api/rbac/v1"
)

// The roles of KubeVirt that everybody who is known has.
const (
	kubevirtDefault  = "kubevirt.io:default"
	instancetypeView = "instancetype.kubevirt.io:view"
)

// The API groups of KubeVirt.
const (
	kubevirtGroup     = "kubevirt.io"
	subresourceGroup  = "subresources.kubevirt.io"
	instancetypeGroup = "instancetype.kubevirt.io"
	migrationsGroup   = "migrations.kubevirt.io"
)

// kubevirtRoles are the roles that KubeVirt's operator makes, as of KubeVirt 1.9, which took
// pictures of the screen from those who may edit. Those about what runs a cluster's own
// components are not among them.
func kubevirtRoles() []*rbacv1.ClusterRole {
	label := func(to string) map[string]string {
		labels := map[string]string{kubevirtLabel: ""}
		if to != "" {
			labels[aggregateTo+to] = "true"
		}
		return labels
	}
	editVerbs := append(reading(), "create", "update", "patch", "delete")
	return []*rbacv1.ClusterRole{
		clusterRole(kubevirtDefault, label(""),
			rule(kubevirtGroup, verbs("get", "list"), "kubevirts"),
			rule(subresourceGroup, verbs("get", "list"), "version", "guestfs"),
		),
		clusterRole("kubevirt.io:admin", label(admin), append(operatorRules(everything()),
			rule(subresourceGroup, verbs("get"), "virtualmachineinstances/vnc/screenshot"),
		)...),
		clusterRole("kubevirt.io:edit", label(edit), append(operatorRules(editVerbs),
			rule(kubevirtGroup, verbs("get", "list"), "kubevirts"),
		)...),
		clusterRole("kubevirt.io:view", label(view), viewerRules()...),
		clusterRole("kubevirt.io:migrate", label(""),
			rule(subresourceGroup, verbs("update"), "virtualmachines/migrate"),
			rule(kubevirtGroup, everything(), "virtualmachineinstancemigrations"),
		),
		clusterRole(instancetypeView, label(""),
			rule(instancetypeGroup, reading(), "virtualmachineclusterinstancetypes", "virtualmachineclusterpreferences"),
		),
		// Of KubeVirt's console proxy: tokens that open the screen of a machine.
		clusterRole("token.kubevirt.io:generate", label(""),
			rule("token.kubevirt.io", verbs("get"), "virtualmachines/vnc"),
		),
	}
}

// operatorRules are for who runs machines: all that can be done to one but its migration,
// which moves load from host to host and is for administrators to give away; and verbs on
// the kinds.
func operatorRules(all []string) []rbacv1.PolicyRule {
	return append([]rbacv1.PolicyRule{
		rule(subresourceGroup, verbs("get"),
			"virtualmachineinstances/console", "virtualmachineinstances/vnc", "virtualmachineinstances/portforward", "virtualmachineinstances/usbredir"),
		rule(subresourceGroup, verbs("update"),
			"virtualmachineinstances/pause", "virtualmachineinstances/unpause", "virtualmachineinstances/softreboot", "virtualmachineinstances/reset",
			"virtualmachineinstances/freeze", "virtualmachineinstances/unfreeze",
			"virtualmachineinstances/addvolume", "virtualmachineinstances/removevolume",
			"virtualmachineinstances/sev/setupsession", "virtualmachineinstances/sev/injectlaunchsecret",
			"virtualmachineinstances/evacuate/cancel"),
		rule(subresourceGroup, verbs("get"), "virtualmachines/portforward"),
		rule(subresourceGroup, verbs("update"),
			"virtualmachines/start", "virtualmachines/stop", "virtualmachines/restart",
			"virtualmachines/addvolume", "virtualmachines/removevolume",
			"virtualmachines/memorydump", "virtualmachines/removememorydump",
			"virtualmachines/evacuate/cancel"),
		rule(kubevirtGroup, reading(), "virtualmachineinstancemigrations"),
		rule(migrationsGroup, reading(), "migrationpolicies"),
	}, append(askingRules(), machineRules(all)...)...)
}

// viewerRules are for who looks at machines.
func viewerRules() []rbacv1.PolicyRule {
	return append([]rbacv1.PolicyRule{
		rule(kubevirtGroup, verbs("get", "list"), "kubevirts"),
		rule(kubevirtGroup, reading(), "virtualmachineinstancemigrations"),
		rule(migrationsGroup, reading(), "migrationpolicies"),
	}, append(askingRules(), machineRules(reading())...)...)
}

// askingRules let ask a machine and its guest about itself.
func askingRules() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		rule(subresourceGroup, verbs("get"),
			"virtualmachineinstances/guestosinfo", "virtualmachineinstances/filesystemlist", "virtualmachineinstances/userlist",
			"virtualmachineinstances/sev/fetchcertchain", "virtualmachineinstances/sev/querylaunchmeasurement",
			"virtualmachineinstances/objectgraph", "virtualmachines/objectgraph", "virtualmachines/expand-spec"),
		// It is asked with PUT, and changes nothing.
		rule(subresourceGroup, verbs("update"), "expand-vm-spec"),
	}
}

// machineRules allow verbs on the kinds around machines.
func machineRules(all []string) []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		rule(kubevirtGroup, all, "virtualmachines", "virtualmachineinstances", "virtualmachineinstancepresets", "virtualmachineinstancereplicasets"),
		rule("snapshot.kubevirt.io", all, "virtualmachinesnapshots", "virtualmachinesnapshotcontents", "virtualmachinerestores"),
		rule("backup.kubevirt.io", all, "virtualmachinebackups", "virtualmachinebackuptrackers"),
		rule("export.kubevirt.io", all, "virtualmachineexports"),
		rule("clone.kubevirt.io", all, "virtualmachineclones"),
		rule("pool.kubevirt.io", all, "virtualmachinepools"),
		rule(instancetypeGroup, all,
			"virtualmachineinstancetypes", "virtualmachineclusterinstancetypes", "virtualmachinepreferences", "virtualmachineclusterpreferences"),
	}
}
