package cli

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// systemdSays makes systemctl answer as on a machine in some state.
func systemdSays(t *testing.T, answers map[string]string) {
	t.Helper()
	dir := t.TempDir()
	script := "#!/bin/sh\ncase \"$*\" in\n"
	for args, answer := range answers {
		script += "\"" + args + "\") echo \"" + answer + "\";;\n"
	}
	if err := os.WriteFile(filepath.Join(dir, "systemctl"), []byte(script+"esac\nexit 1\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir)
}

// A shutdown is one from its first moment on, also if the machine has not finished its start; a
// start is none.
func TestAShutdownIsKnown(t *testing.T) {
	const running, job, active = "is-system-running", "show shutdown.target -P Job", "show shutdown.target -P ActiveState"
	for name, c := range map[string]struct {
		says map[string]string
		want bool
	}{
		"stopping":                     {map[string]string{running: "stopping"}, true},
		"running":                      {map[string]string{running: "running", active: "inactive"}, false},
		"degraded":                     {map[string]string{running: "degraded", job: "0", active: "inactive"}, false},
		"starting":                     {map[string]string{running: "starting", active: "inactive"}, false},
		"shut down while it starts":    {map[string]string{running: "starting", job: "1234", active: "inactive"}, true},
		"shut down, and the job ended": {map[string]string{running: "starting", active: "active"}, true},
		"without systemd":              {nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			systemdSays(t, c.says)
			if got := hostIsStopping(t.Context()); got != c.want {
				t.Errorf("is it stopping: %t", got)
			}
		})
	}
}

// Guests are shut down with their host although its configuration cannot be used; otherwise the
// fault is told and nothing is done.
func TestABrokenConfigurationCutsNoPower(t *testing.T) {
	path := filepath.Join(t.TempDir(), "agent.yaml")
	if err := os.WriteFile(path, []byte("role: witness\nhypervisor:\n  shutdownSeconds: 100000\n  unknown: 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	run := func() (string, error) {
		var out, errOut bytes.Buffer
		app := newApp(strings.NewReader(""), &out, &errOut)
		err := app.RunContext(t.Context(), []string{"virtmesh", "agent", "shutdown-guests", "--config", path})
		return errOut.String(), err
	}
	systemdSays(t, map[string]string{"is-system-running": "running"})
	if _, err := run(); err == nil || !strings.Contains(err.Error(), "unknown") {
		t.Errorf("while the host runs: %v", err)
	}
	systemdSays(t, map[string]string{"is-system-running": "stopping"})
	// A witness has no guests: it needs no hypervisor here.
	if told, err := run(); err != nil || !strings.Contains(told, "what can be read of it") {
		t.Errorf("while the host stops: %v, told %q", err, told)
	}
}
