package membership

import (
	"strings"
	"testing"

	"virtmesh/agent/hostseal"
	"virtmesh/agent/port/admin"
)

// Status warns of every file that a host cannot open, and of a TPM that seals no more.
func TestStatusTellsOfTheSeal(t *testing.T) {
	t.Parallel()
	if list := sealWarnings("host1", nil); len(list) > 0 {
		t.Errorf("of a host without a keyring: %q", list)
	}
	quiet := admin.KeyringSeal{With: hostseal.KindFile, NoTPM: "this host has no TPM 2"}
	if list := sealWarnings("host1", &admin.KeyringStatus{Seal: quiet}); len(list) > 0 {
		t.Errorf("of a host that never had a TPM: %q", list)
	}
	loud := admin.KeyringSeal{With: hostseal.KindFile, FellBack: true, NoTPM: "the TPM is busy", Shut: []string{"one", "two"}}
	list := sealWarnings("host1", &admin.KeyringStatus{Seal: loud})
	if len(list) != 3 || list[0] != "one" || list[1] != "two" || !strings.Contains(list[2], "the TPM is busy") || !strings.Contains(list[2], "host1") {
		t.Errorf("%q", list)
	}
}
