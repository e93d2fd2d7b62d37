package doctor

import (
	"encoding/json"
	"net"
	"net/http"
	"path/filepath"
	"testing"

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
