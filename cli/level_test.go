package cli

import (
	"fmt"
	"strings"
	"testing"

	"virtmesh/agent/level"
	"virtmesh/agent/port/admin"
)

// An operator reads in one line whether the mesh can be raised, and which hosts hold it up.
func TestLevelSentence(t *testing.T) {
	old := func(n int) (hosts []level.Host) {
		for i := range n {
			hosts = append(hosts, level.Host{Name: fmt.Sprint("h", i), Version: "1.0", Highest: 1})
		}
		return hosts
	}
	for want, l := range map[string]admin.Level{
		"1": {Mesh: 1, Reachable: 1, Newest: 1},
		"1; every host knows 2: 'virtmesh level raise' lets the mesh use it":                                                           {Mesh: 1, Reachable: 2, Newest: 2, Policy: "Manual"},
		"1; every host knows 2, and the mesh raises itself to it once they have for ten minutes":                                       {Mesh: 1, Reachable: 2, Newest: 2, Policy: "Automatic"},
		"1; h0 (version 1.0, knows up to 1) holds up 2":                                                                                {Mesh: 1, Reachable: 1, Newest: 2, HeldUpBy: old(1)},
		"1; h0 (knows up to 0) holds up 2":                                                                                             {Mesh: 1, Reachable: 1, Newest: 2, HeldUpBy: []level.Host{{Name: "h0"}}},
		"1; h0 (version 1.0, knows up to 1), h1 (version 1.0, knows up to 1), h2 (version 1.0, knows up to 1), 2 more hosts hold up 2": {Mesh: 1, Reachable: 1, Newest: 2, HeldUpBy: old(5)},
		"1; every host knows 2: 'virtmesh level raise' lets the mesh use it; h8, h9 hold a raise up: no answer":                        {Mesh: 1, Reachable: 2, Newest: 2, Policy: "Manual", Unheard: []string{"h8", "h9"}},
	} {
		if got := levelSentence(&l); got != want {
			t.Errorf("%+v: %q, want %q", l, got, want)
		}
	}
}

// A mesh that a host holds up is not raised without its administrator naming a level, and
// the error names the host.
func TestARaiseThatIsHeldUp(t *testing.T) {
	mesh := wellMesh()
	mesh.status.Level.Reachable = 3
	mesh.status.Level.HeldUpBy = []level.Host{{Name: "host2", Version: "1.9", Highest: 3}}
	code, _, stderr := run(t, append(serve(t, mesh), "level", "raise", "--yes")...)
	if code != 5 || !strings.Contains(stderr, "host2 (version 1.9, knows up to 3) holds up 4") || mesh.status.Level.Mesh != 3 {
		t.Errorf("exit code %d, %q, the mesh is at %d", code, stderr, mesh.status.Level.Mesh)
	}
	mesh.status.Level = nil
	mesh.status.Warnings = []string{"host1 has no copy and waits"}
	code, _, stderr = run(t, append(serve(t, mesh), "level")...)
	if code != 1 || !strings.Contains(stderr, "host1 has no copy and waits") {
		t.Errorf("a host without a copy: exit code %d, %q", code, stderr)
	}
}

// Many hosts take a while to answer: a user is told what the command waits for, on stderr.
func TestARaiseOfManyHostsSaysWhatItWaitsFor(t *testing.T) {
	mesh := wellMesh()
	if code, _, stderr := run(t, append(serve(t, mesh), "level", "raise", "--yes")...); code != 0 || stderr != "" {
		t.Errorf("two hosts: exit code %d, %q", code, stderr)
	}
	mesh = wellMesh()
	for i := range 48 {
		mesh.status.Members = append(mesh.status.Members, admin.Member{Name: fmt.Sprint("h", i), State: "alive", FeatureLevel: 4})
	}
	code, stdout, stderr := run(t, append(serve(t, mesh), "level", "raise", "--yes")...)
	if code != 0 || stderr != "asking 50 hosts whether they know feature level 4\n" || stdout != "the mesh is at feature level 4\n" {
		t.Errorf("fifty hosts: exit code %d, %q, %q", code, stdout, stderr)
	}
}
