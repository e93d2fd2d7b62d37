package cli

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

func TestCompletion(t *testing.T) {
	connection := serve(t, wellMesh())
	for _, test := range []struct{ name, typed, want, not string }{
		{"commands", "", "vm", "registry"},
		{"subcommands", "vm", "console", "host-services"},
		{"hidden subcommands", "lab", "exec", "host-init"},
		{"hosts", "node cordon", "host1", "nothing"},
		{"hosts that are not there yet", "node cordon host1", "host2", "host1"},
		{"shells", "completion", "fish", "tcsh"},
		{"types", "get", "vmi", "host1"},
		{"flags", "vm create --", "--image", "host1"},
		{"flags that match", "vm create --mem", "--memory", "--image"},
		{"names after a flag's value", "node show -o json", "host1", "--output"},
	} {
		t.Run(test.name, func(t *testing.T) {
			args := append(append(connection, strings.Fields(test.typed)...), completionFlag)
			code, stdout, stderr := run(t, args...)
			words := strings.Fields(stdout)
			if code != 0 || stderr != "" || !slices.Contains(words, test.want) || slices.Contains(words, test.not) {
				t.Errorf("exit code %d, offered %q, stderr %q; want %q and not %q", code, words, stderr, test.want, test.not)
			}
		})
	}
}

// TestCompletionRunsNothing holds that a Tab never does what is being typed.
func TestCompletionRunsNothing(t *testing.T) {
	mesh := wellMesh()
	connection := serve(t, mesh)
	for _, typed := range []string{"node remove host1", "node remove -- host1", "node -- remove host1", "token revoke a", "node remove host1 -o"} {
		if code, _, stderr := run(t, append(append(connection, strings.Fields(typed)...), completionFlag)...); code != 0 || stderr != "" {
			t.Errorf("%s: exit code %d, stderr %q", typed, code, stderr)
		}
	}
	if len(mesh.removed) > 0 || len(mesh.revoked) > 0 {
		t.Errorf("completion removed %q and revoked %q", mesh.removed, mesh.revoked)
	}
}

func TestCompletionScripts(t *testing.T) {
	for shell, script := range completionScripts {
		path, err := exec.LookPath(shell)
		if err != nil {
			continue
		}
		cmd := exec.CommandContext(t.Context(), path, "-n")
		cmd.Stdin = strings.NewReader(script)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s does not accept its script: %v: %s", shell, err, out)
		}
	}
}

func TestHelpIsShort(t *testing.T) {
	_, stdout, _ := run(t, "vm", "start", "--help")
	if strings.Contains(stdout, "COMMANDS") || !strings.Contains(stdout, "NAME...") {
		t.Errorf("help of a command without subcommands:\n%s", stdout)
	}
	code, stdout, _ := run(t, "vm")
	if code != 0 || !strings.Contains(stdout, "console") {
		t.Errorf("a bare noun: exit code %d\n%s", code, stdout)
	}
}
