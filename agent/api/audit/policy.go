package audit

import audit "k8s.io/apiserver/pkg/apis/audit"

// streams are the subresources through which a person reaches into a guest, whatever the verb.
var streams = []string{
	"virtualmachineinstances/console", "virtualmachineinstances/vnc", "virtualmachineinstances/vnc/screenshot",
	"virtualmachineinstances/portforward", "virtualmachineinstances/vsock", "virtualmachineinstances/usbredir",
	"virtualmachines/portforward",
}

// DefaultPolicy records of known users, without the bodies, every request that changes something,
// every one that reads Secrets or keys of the mesh, and the beginning and end of every console and other stream. It
// records no other reads, and no reviews of rights, which clients ask for all the time.
func DefaultPolicy() *audit.Policy {
	known := []string{"system:authenticated"}
	return &audit.Policy{
		OmitStages: []audit.Stage{audit.StageRequestReceived},
		Rules: []audit.PolicyRule{
			{Level: audit.LevelNone, Resources: []audit.GroupResources{{Group: "authorization.k8s.io"}, {Group: "authentication.k8s.io"}}},
			{Level: audit.LevelMetadata, UserGroups: known, Resources: []audit.GroupResources{
				{Resources: []string{"secrets"}}, {Group: "subresources.kubevirt.io", Resources: streams},
			}},
			{Level: audit.LevelMetadata, UserGroups: known, NonResourceURLs: []string{"/mesh/v1/backup", "/mesh/v1/keyring/*"}},
			{Level: audit.LevelNone, Verbs: []string{"get", "list", "watch", "head", "options"}},
			{Level: audit.LevelMetadata, UserGroups: known},
		},
	}
}
