package kinds

import (
	"strings"
	"testing"

	k8scni "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
)

func TestNetworksThatNoGuestCanUseAreWarnedOf(t *testing.T) {
	for config, want := range map[string]string{
		`{"cniVersion":"0.3.1","type":"bridge","bridge":"br1"}`: "",
		"":                                    "", // another plugin defines the network
		`{"cniVersion":"0.3.1","type":"foo"}`: `"foo"`,
		`{"cniVersion":"0.3.1","type":"bridge","bridge":"br1","ipam":{"type":"x"}}`: "ipam",
	} {
		n := &k8scni.NetworkAttachmentDefinition{Spec: k8scni.NetworkAttachmentDefinitionSpec{Config: config}}
		got := networkAttachmentDefinitionKind().Warnings(n)
		if len(got) > 1 || (len(got) == 1) != (want != "") || !strings.Contains(strings.Join(got, ""), want) {
			t.Errorf("%s: warnings %q, want one with %q", config, got, want)
		}
	}
}
