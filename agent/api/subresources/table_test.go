package subresources

import (
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"

	"k8s.io/apimachinery/pkg/util/sets"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
)

// upstream is what KubeVirt serves, and with which verb its roles allow it.
var upstream = map[string]string{
	"expand-vm-spec":                                     "update",
	"virtualmachines/addvolume":                          "update",
	"virtualmachines/evacuate/cancel":                    "update",
	"virtualmachines/expand-spec":                        "get",
	"virtualmachines/memorydump":                         "update",
	"virtualmachines/migrate":                            "update",
	"virtualmachines/objectgraph":                        "get",
	"virtualmachines/portforward":                        "get",
	"virtualmachines/removememorydump":                   "update",
	"virtualmachines/removevolume":                       "update",
	"virtualmachines/restart":                            "update",
	"virtualmachines/start":                              "update",
	"virtualmachines/stop":                               "update",
	"virtualmachineinstances/addvolume":                  "update",
	"virtualmachineinstances/backup":                     "update",
	"virtualmachineinstances/console":                    "get",
	"virtualmachineinstances/evacuate/cancel":            "update",
	"virtualmachineinstances/filesystemlist":             "get",
	"virtualmachineinstances/freeze":                     "update",
	"virtualmachineinstances/guestosinfo":                "get",
	"virtualmachineinstances/objectgraph":                "get",
	"virtualmachineinstances/pause":                      "update",
	"virtualmachineinstances/portforward":                "get",
	"virtualmachineinstances/redefine-checkpoint":        "update",
	"virtualmachineinstances/removevolume":               "update",
	"virtualmachineinstances/reset":                      "update",
	"virtualmachineinstances/sev/fetchcertchain":         "get",
	"virtualmachineinstances/sev/injectlaunchsecret":     "update",
	"virtualmachineinstances/sev/querylaunchmeasurement": "get",
	"virtualmachineinstances/sev/setupsession":           "update",
	"virtualmachineinstances/softreboot":                 "update",
	"virtualmachineinstances/unfreeze":                   "update",
	"virtualmachineinstances/unpause":                    "update",
	"virtualmachineinstances/usbredir":                   "get",
	"virtualmachineinstances/userlist":                   "get",
	"virtualmachineinstances/vnc":                        "get",
	"virtualmachineinstances/vnc/screenshot":             "get",
	"virtualmachineinstances/vsock":                      "get",
}

func TestEverySubresourceOfKubeVirtIsListed(t *testing.T) {
	listed := map[string]bool{}
	for _, r := range Resources() {
		listed[r.Name] = true
		verb, known := upstream[r.Name]
		if parent := r.Name == vmKind.resource() || r.Name == vmiKind.resource(); !parent && (!known || !slices.Equal(r.Verbs, []string{verb})) {
			t.Errorf("%s is listed with %v, and KubeVirt has it with %q", r.Name, r.Verbs, verb)
		}
	}
	for name := range upstream {
		if !listed[name] {
			t.Errorf("%s is not listed", name)
		}
	}
}

// A role that names a subresource as KubeVirt's roles do is about that one and no other.
func TestRequestsAreNamedAsRolesNameThem(t *testing.T) {
	resolver := Resolver{&genericapirequest.RequestInfoFactory{APIPrefixes: sets.NewString("api", "apis"), GrouplessAPIPrefixes: sets.NewString("api")}}
	for path, want := range map[string]string{
		"/apis/subresources.kubevirt.io/v1/namespaces/ns/virtualmachineinstances/vm/vnc":               "vnc",
		"/apis/subresources.kubevirt.io/v1/namespaces/ns/virtualmachineinstances/vm/vnc/screenshot":    "vnc/screenshot",
		"/apis/subresources.kubevirt.io/v1/namespaces/ns/virtualmachines/vm/evacuate/cancel":           "evacuate/cancel",
		"/apis/subresources.kubevirt.io/v1/namespaces/ns/virtualmachines/vm/portforward/22/tcp":        "portforward",
		"/apis/subresources.kubevirt.io/v1/namespaces/ns/virtualmachineinstances/vm/portforward/22":    "portforward",
		"/apis/subresources.kubevirt.io/v1/namespaces/ns/virtualmachineinstances/vm":                   "",
		"/apis/kubevirt.io/v1/namespaces/ns/virtualmachines/vm/status":                                 "status",
		"/apis/subresources.kubevirt.io/v1/namespaces/ns/expand-vm-spec":                               "",
		"/apis/subresources.kubevirt.io/v1/namespaces/ns/virtualmachineinstances/vm/vnc/other/segment": "vnc/other/segment",
	} {
		info, err := resolver.NewRequestInfo(httptest.NewRequest(http.MethodGet, path, nil))
		if err != nil || info.Subresource != want {
			t.Errorf("%s is %q, %v, want %q", path, info.Subresource, err, want)
		}
	}
}
