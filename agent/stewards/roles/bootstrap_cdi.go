package roles

import (
	rbacv1 "k8s.io/api/rbac/v1"
)

// cdiConfigReader lets everybody who is known read how disks are imported.
const cdiConfigReader = "cdi.kubevirt.io:config-reader"

// The API groups of the Containerized Data Importer.
const (
	cdiGroup    = "cdi.kubevirt.io"
	uploadGroup = "upload.cdi.kubevirt.io"
)

// cdiRoles are the roles that the operator of the Containerized Data Importer makes. As
// there, who may edit a namespace may do with disks what its administrator may.
func cdiRoles() []*rbacv1.ClusterRole {
	label := func(to string) map[string]string {
		labels := map[string]string{cdiLabel: ""}
		if to != "" {
			labels[aggregateTo+to] = "true"
		}
		return labels
	}
	// cloneSource lets clone the disks of a namespace into another one.
	cloneSource := func() rbacv1.PolicyRule { return rule(cdiGroup, verbs("create"), "datavolumes/source") }
	change := func() []rbacv1.PolicyRule {
		return []rbacv1.PolicyRule{
			rule(cdiGroup, verbs(rbacv1.VerbAll), "datavolumes", "dataimportcrons", "datasources",
				"volumeimportsources", "volumeuploadsources", "volumeclonesources"),
			cloneSource(),
			rule(uploadGroup, verbs(rbacv1.VerbAll), "uploadtokenrequests"),
		}
	}
	return []*rbacv1.ClusterRole{
		clusterRole("cdi.kubevirt.io:admin", label(admin), change()...),
		clusterRole("cdi.kubevirt.io:edit", label(edit), change()...),
		clusterRole("cdi.kubevirt.io:view", label(view),
			rule(cdiGroup, reading(), "cdiconfigs", "storageprofiles", "objecttransfers",
				"datavolumes", "dataimportcrons", "datasources", "volumeimportsources", "volumeuploadsources", "volumeclonesources"),
		),
		clusterRole("cdi.kubevirt.io:clone-sourcer", label(""), cloneSource()),
		clusterRole(cdiConfigReader, label(""), rule(cdiGroup, reading(), "cdiconfigs", "storageprofiles")),
	}
}
