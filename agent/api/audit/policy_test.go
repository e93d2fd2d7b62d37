package audit

import (
	"testing"

	"k8s.io/apiserver/pkg/apis/audit"
	"k8s.io/apiserver/pkg/audit/policy"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// The default policy records who changes something, reads keys or reaches into a guest, and
// neither what is in it nor anybody who is not known.
func TestDefaultPolicy(t *testing.T) {
	t.Parallel()
	rules := policy.NewPolicyRuleEvaluator(DefaultPolicy())
	anna := &user.DefaultInfo{Name: "anna", Groups: []string{user.AllAuthenticated}}
	stranger := &user.DefaultInfo{Name: user.Anonymous, Groups: []string{user.AllUnauthenticated}}
	resource := func(verb, group, resource, subresource string) authorizer.AttributesRecord {
		return authorizer.AttributesRecord{Verb: verb, APIGroup: group, Resource: resource, Subresource: subresource, ResourceRequest: true, User: anna}
	}
	path := func(verb, path string) authorizer.AttributesRecord {
		return authorizer.AttributesRecord{Verb: verb, Path: path, User: anna}
	}
	by := func(who user.Info, a authorizer.AttributesRecord) authorizer.AttributesRecord {
		a.User = who
		return a
	}
	const kubevirt, sub = "kubevirt.io", "subresources.kubevirt.io"
	for name, c := range map[string]struct {
		request authorizer.AttributesRecord
		want    audit.Level
	}{
		"create a machine":            {resource("create", kubevirt, "virtualmachines", ""), audit.LevelMetadata},
		"delete all":                  {resource("deletecollection", kubevirt, "virtualmachines", ""), audit.LevelMetadata},
		"list machines":               {resource("list", kubevirt, "virtualmachines", ""), audit.LevelNone},
		"watch machines":              {resource("watch", kubevirt, "virtualmachines", ""), audit.LevelNone},
		"read a Secret":               {resource("get", "", "secrets", ""), audit.LevelMetadata},
		"watch Secrets":               {resource("watch", "", "secrets", ""), audit.LevelMetadata},
		"ask for a token":             {resource("create", "", "serviceaccounts", "token"), audit.LevelMetadata},
		"open a console":              {resource("get", sub, "virtualmachineinstances", "console"), audit.LevelMetadata},
		"take a picture":              {resource("get", sub, "virtualmachineinstances", "vnc/screenshot"), audit.LevelMetadata},
		"read what a guest tells":     {resource("get", sub, "virtualmachineinstances", "guestosinfo"), audit.LevelNone},
		"stop a machine":              {resource("update", sub, "virtualmachines", "stop"), audit.LevelMetadata},
		"ask for one's rights":        {resource("create", "authorization.k8s.io", "selfsubjectaccessreviews", ""), audit.LevelNone},
		"make a join token":           {path("post", "/mesh/v1/tokens"), audit.LevelMetadata},
		"remove a host":               {path("delete", "/mesh/v1/hosts/host3"), audit.LevelMetadata},
		"status":                      {path("get", "/mesh/v1/status"), audit.LevelNone},
		"take a backup":               {path("get", "/mesh/v1/backup"), audit.LevelMetadata},
		"read the keyring":            {path("get", "/mesh/v1/keyring/bundle"), audit.LevelMetadata},
		"readiness":                   {path("get", "/readyz"), audit.LevelNone},
		"a stranger creates":          {by(stranger, resource("create", kubevirt, "virtualmachines", "")), audit.LevelNone},
		"a stranger reads a Secret":   {by(stranger, resource("get", "", "secrets", "")), audit.LevelNone},
		"a stranger makes a token":    {by(stranger, path("post", "/mesh/v1/tokens")), audit.LevelNone},
		"a bad certificate or token":  {by(nil, resource("create", kubevirt, "virtualmachines", "")), audit.LevelNone},
		"a stranger opens a console":  {by(stranger, resource("get", sub, "virtualmachineinstances", "console")), audit.LevelNone},
		"a stranger takes the backup": {by(stranger, path("get", "/mesh/v1/backup")), audit.LevelNone},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := rules.EvaluatePolicyRule(c.request); got.Level != c.want || got.Level != audit.LevelNone && (len(got.OmitStages) != 1 || got.OmitStages[0] != audit.StageRequestReceived) {
				t.Errorf("%+v, want %s", got, c.want)
			}
		})
	}
}
