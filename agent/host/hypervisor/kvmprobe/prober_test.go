package kvmprobe

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// testConfig is that of a host with a device and without an emulator.
func testConfig(t *testing.T) Config {
	t.Helper()
	c := DefaultConfig()
	c.Emulator, c.Device, c.User = filepath.Join(t.TempDir(), "qemu"), "/dev/null", ""
	return c
}

// writeEmulator writes a script in the emulator's place that notes each probe.
func writeEmulator(t *testing.T, c Config, comment, script string) {
	t.Helper()
	text := "#!/bin/sh\n# " + comment + "\necho probe >>" + c.Emulator + ".count\n" + script + "\n"
	if err := os.WriteFile(c.Emulator, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
}

func countProbes(t *testing.T, c Config) int {
	t.Helper()
	text, err := os.ReadFile(c.Emulator + ".count")
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return strings.Count(string(text), "probe")
}

// A host that was probed at a bad moment, as in the middle of an upgrade, is probed again
// although nothing that can be seen from outside has changed; but not at each look, and not
// once KVM works.
func TestAProberProbesAgainAfterAFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := testConfig(t)
		broken := filepath.Join(filepath.Dir(c.Emulator), "library-is-missing")
		if err := os.WriteFile(broken, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		works := "for letter in"
		for _, s := range stages {
			works += " " + string(s.letter)
		}
		works += "; do printf %s $letter; done; exit " + strconv.Itoa(exitCode)
		writeEmulator(t, c, "emulator", "[ -e "+broken+" ] && exit 127\n"+works)
		p, err := NewProber(c)
		if err != nil {
			t.Fatal(err)
		}
		look := func(when string, usable bool, probes int) {
			t.Helper()
			result, err := p.Result(t.Context())
			if err != nil || result.Usable != usable || p.Usable() != usable {
				t.Errorf("%s: %+v, %v, want usable %v", when, result, err, usable)
			}
			if n := countProbes(t, c); n != probes {
				t.Errorf("%s: probed %d times, want %d", when, n, probes)
			}
		}
		look("in the middle of the upgrade", false, 1)
		if err := os.Remove(broken); err != nil {
			t.Fatal(err)
		}
		time.Sleep(retryAfter / 2)
		look("soon after it", false, 1)
		time.Sleep(retryAfter / 2)
		look("later", true, 2)
		time.Sleep(10 * retryAfter)
		look("much later", true, 2)
	})
}

// A host whose emulator is installed, or replaced, while the agent runs is probed again.
func TestAProberProbesAgainWhenTheEmulatorIsReplaced(t *testing.T) {
	c := testConfig(t)
	p, err := NewProber(c)
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		name, emulator string
		probes         int
	}{
		{"without an emulator", "", 0}, {"the emulator is installed", "first", 1}, {"nothing has changed", "", 1}, {"the emulator is replaced", "second one", 2},
	} {
		if step.emulator != "" {
			writeEmulator(t, c, step.emulator, "exit 1")
		}
		result, err := p.Result(t.Context())
		if err != nil || result.Usable || p.Usable() || result.Reason == "" {
			t.Errorf("%s: %+v, %v", step.name, result, err)
		}
		if n := countProbes(t, c); n != step.probes {
			t.Errorf("%s: the emulator was tried %d times, want %d", step.name, n, step.probes)
		}
	}
}
