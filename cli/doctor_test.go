package cli

import (
	"bytes"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"

	"virtmesh/cli/doctor"
)

func TestDoctorSaysWhatItRepairs(t *testing.T) {
	var out, errOut bytes.Buffer
	c := cli.NewContext(&cli.App{Writer: &out, ErrWriter: &errOut}, nil, nil)
	c.Context = t.Context()
	findings := []doctor.Finding{
		{Check: "root", Result: doctor.Passed},
		{Check: "libvirt", Result: doctor.Failed, Detail: "no answer\nmore", Fix: "start it", Repair: &doctor.Repair{Commands: [][]string{{"true"}}}},
		{Check: "clock", Result: doctor.Warning, Detail: "off", Fix: "set it", Repair: &doctor.Repair{Commands: [][]string{{"false"}}}},
	}
	if err := printFindings(c, findings); err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"libvirt   failed    no answer\n", "\nlibvirt: start it\nclock: set it\n", "'virtmesh doctor --fix' does a part of this.\n"} {
		if !strings.Contains(out.String(), line) {
			t.Errorf("it does not print %q:\n%s", line, &out)
		}
	}
	if !repairFindings(c, findings) {
		t.Error("it tried nothing")
	}
	if got, want := errOut.String(), "libvirt: true\nclock: false\nclock: not repaired: false: exit status 1\n"; got != want {
		t.Errorf("it says %q, want %q", got, want)
	}
	if repairFindings(c, findings[:1]) {
		t.Error("it repairs what is well")
	}
}

// The role decides what is checked, so one that does not exist is no worker's.
func TestDoctorRefusesAnotherRole(t *testing.T) {
	code, _, stderr := run(t, "doctor", "--role", "arbiter", "--config", t.TempDir()+"/none.yaml")
	if code == 0 || !strings.Contains(stderr, "--role") || !strings.Contains(stderr, "witness") {
		t.Errorf("it ended with %d and said %q", code, stderr)
	}
}
