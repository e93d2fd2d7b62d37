package doctor

import (
	"encoding/json"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"virtmesh/agent/hostseal"
	"virtmesh/agent/level"
	"virtmesh/agent/port/admin"
)

// The bundle is made on a voter, so the fix names one that the host can see.
func TestTheBundleIsMadeOnAVoter(t *testing.T) {
	for want, status := range map[string]admin.Status{
		"this host":      {Host: "host2", Members: []admin.Member{{Name: "host1", Role: "leader"}, {Name: "host2", Role: "voter"}}},
		"host1 or host3": {Host: "host2", Members: []admin.Member{{Name: "host1", Role: "leader"}, {Name: "host2", Role: "follower"}, {Name: "host3", Role: "voter"}}},
		"a voter":        {Host: "host2", Members: []admin.Member{{Name: "host2", Role: "follower"}}},
	} {
		status.Keyring = &admin.KeyringStatus{}
		got := checkKeyring(Facts{Status: &status})
		if len(got) != 1 || got[0].Fix != "as root on "+want+": virtmesh keyring bundle --output FILE" {
			t.Errorf("%+v, want %s", got, want)
		}
	}
}

// How the keys are on the disk is said once the mesh seals them, and warned of where a person
// must act.
func TestHowTheKeyringIsSealed(t *testing.T) {
	now := admin.Level{Mesh: level.Succession}
	for name, c := range map[string]struct {
		level *admin.Level
		seal  admin.KeyringSeal
		want  Result
		says  string
	}{
		"below the level":    {level: &admin.Level{Mesh: level.Succession - 1}},
		"a host without it":  {},
		"with the TPM":       {&now, admin.KeyringSeal{With: hostseal.KindTPM}, Passed, "the TPM"},
		"a file is wanted":   {&now, admin.KeyringSeal{With: hostseal.KindFile}, Passed, "as keyring.seal says"},
		"there is no TPM":    {&now, admin.KeyringSeal{With: hostseal.KindFile, NoTPM: "this host has no TPM 2"}, Passed, "no TPM 2"},
		"only a TPM will do": {&now, admin.KeyringSeal{NoTPM: "this host has no TPM 2"}, Warning, "in clear: this host has no TPM 2"},
		"the TPM was cleared": {&now, admin.KeyringSeal{With: hostseal.KindTPM, Shut: []string{"host1 does without keys"}}, Warning,
			"host1 does without keys"},
		"not yet": {level: &now},
	} {
		found := checkSeal(Facts{Status: &admin.Status{Level: c.level, Keyring: &admin.KeyringStatus{Seal: c.seal}}})
		if c.want == "" {
			if len(found) > 0 {
				t.Errorf("%s: %+v", name, found)
			}
			continue
		}
		if len(found) != 1 || found[0].Result != c.want || !strings.Contains(found[0].Detail, c.says) || (found[0].Fix == "") != (c.want == Passed) {
			t.Errorf("%s: %+v, want %s: %s", name, found, c.want, c.says)
		}
	}
}

// All files that cannot be opened are shown, each with what helps, and a TPM that seals no more.
func TestAllThatIsWrongWithTheSealIsShown(t *testing.T) {
	seal := admin.KeyringSeal{With: hostseal.KindFile, FellBack: true, NoTPM: "the TPM is busy", Shut: []string{"the key of the CA", "the keys for Secrets"}}
	found := checkSeal(Facts{Status: &admin.Status{Level: &admin.Level{Mesh: level.Succession}, Keyring: &admin.KeyringStatus{Seal: seal}}})
	if len(found) != 3 {
		t.Fatalf("%+v", found)
	}
	for i, says := range []string{"the key of the CA", "the keys for Secrets", "no more with the TPM: the TPM is busy"} {
		if f := found[i]; f.Result != Warning || !strings.Contains(f.Detail, says) || f.Fix == "" {
			t.Errorf("%+v, want %s", f, says)
		}
	}
}

func TestReadStatus(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "agent.sock")
	if got := readStatus(t.Context(), socket); got != nil {
		t.Errorf("without an agent: %+v", got)
	}
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	code := http.StatusOK
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(code)
		if err := json.NewEncoder(w).Encode(admin.Status{Host: "host1"}); err != nil {
			t.Error(err)
		}
	})}
	stopped := make(chan error)
	go func() { stopped <- server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close(); <-stopped })
	if got := readStatus(t.Context(), socket); got == nil || got.Host != "host1" {
		t.Errorf("the agent's answer: %+v", got)
	}
	code = http.StatusServiceUnavailable
	if got := readStatus(t.Context(), socket); got != nil {
		t.Errorf("an agent that cannot say: %+v", got)
	}
}
