package kvmprobe

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A host whose emulator is installed, or replaced, while the agent runs is probed again.
func TestAProberProbesAgainWhenTheEmulatorIsReplaced(t *testing.T) {
	dir := t.TempDir()
	c := DefaultConfig()
	c.Emulator, c.Device, c.User = filepath.Join(dir, "qemu"), "/dev/null", ""
	p, err := NewProber(c)
	if err != nil {
		t.Fatal(err)
	}
	count := filepath.Join(dir, "count")
	probes := func() int {
		text, err := os.ReadFile(count)
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		return strings.Count(string(text), "probe")
	}
	for _, step := range []struct {
		name, emulator string
		probes         int
	}{
		{"without an emulator", "", 0}, {"the emulator is installed", "first", 1}, {"nothing has changed", "", 1}, {"the emulator is replaced", "second one", 2},
	} {
		if step.emulator != "" {
			script := "#!/bin/sh\n# " + step.emulator + "\necho probe >>" + count + "\nexit 1\n"
			if err := os.WriteFile(c.Emulator, []byte(script), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		result, err := p.Result(t.Context())
		if err != nil || result.Usable || p.Usable() || result.Reason == "" {
			t.Errorf("%s: %+v, %v", step.name, result, err)
		}
		if n := probes(); n != step.probes {
			t.Errorf("%s: the emulator was tried %d times, want %d", step.name, n, step.probes)
		}
	}
}
