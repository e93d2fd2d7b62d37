package cli

import (
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"
)

// leaves calls visit for every command that has no subcommands, hidden ones too.
func leaves(commands []*cli.Command, path []string, visit func(path []string, command *cli.Command)) {
	for _, command := range commands {
		here := append(slices.Clone(path), command.Name)
		if command.Name == "help" {
			continue
		}
		if len(command.Subcommands) == 0 {
			visit(here, command)
			continue
		}
		leaves(command.Subcommands, here, visit)
	}
}

// A word that no command reads is a misunderstanding: 'lab up 5', 'agent leave host2',
// 'apply -f *.yaml' that a shell has expanded.
func TestArgumentsNobodyReadsAreRefused(t *testing.T) {
	checked := 0
	leaves(newApp(nil, io.Discard, io.Discard).Commands, nil, func(path []string, command *cli.Command) {
		if strings.Contains(command.ArgsUsage, "...") {
			return
		}
		checked++
		words := []string{"one", "two", "three"}[:len(strings.Fields(command.ArgsUsage))+1]
		code, stdout, stderr := run(t, append(path, words...)...)
		last := words[len(words)-1]
		if code != 1 || stdout != "" || strings.Count(stderr, "\n") != 1 || !strings.Contains(stderr, `"`+last+`"`) || !strings.Contains(stderr, "virtmesh "+strings.Join(path, " ")) {
			t.Errorf("%s %s: exit code %d, %q, %q; want 1 and one line that names the command and %q", path, words, code, stdout, stderr, last)
		}
	})
	if checked < 20 {
		t.Errorf("only %d commands were checked", checked)
	}
	for _, test := range []struct {
		typed, want string
	}{
		{"apply -f a.yaml b.yaml c.yaml", `takes no arguments, and not "b.yaml"`},
		{"delete vm web -f a.yaml", "each manifest needs its own -f"},
		{"lab kill host1 host2", `only HOST, and not "host2"`},
		{"agent leave host2", `no arguments, and not "host2"`},
	} {
		if code, _, stderr := run(t, strings.Fields(test.typed)...); code != 1 || !strings.Contains(stderr, test.want) {
			t.Errorf("%s: exit code %d, stderr %q; want %q", test.typed, code, stderr, test.want)
		}
	}
}

// Every command says what it does and what it takes, and every flag what it is for.
func TestEveryCommandIsExplained(t *testing.T) {
	leaves(newApp(nil, io.Discard, io.Discard).Commands, nil, func(path []string, command *cli.Command) {
		if command.Hidden {
			return
		}
		name := strings.Join(path, " ")
		code, stdout, stderr := run(t, append(path, "--help")...)
		if code != 0 || stderr != "" || command.Usage == "" || !strings.Contains(stdout, command.Usage) {
			t.Errorf("%s --help: exit code %d, %q, %q", name, code, stdout, stderr)
		}
		if command.ArgsUsage != "" && !strings.Contains(stdout, command.ArgsUsage) {
			t.Errorf("%s --help does not say that it takes %s:\n%s", name, command.ArgsUsage, stdout)
		}
		for _, flag := range command.Flags {
			if documented, ok := flag.(cli.DocGenerationFlag); !ok || documented.GetUsage() == "" {
				t.Errorf("%s: flag %q has no explanation", name, flag.Names())
			}
		}
	})
}

// A command that prints values prints them for programs too.
func TestListsAndShowsHaveOutputFormats(t *testing.T) {
	leaves(newApp(nil, io.Discard, io.Discard).Commands, nil, func(path []string, command *cli.Command) {
		name := path[len(path)-1]
		if !slices.Contains([]string{"ls", "show", "get", "status", "doctor", "events"}, name) {
			return
		}
		if findFlag(command.Flags, "output") == nil || findFlag(command.Flags, "o") == nil {
			t.Errorf("%s has no -o", path)
		}
	})
}

// What takes names offers names: of machines, hosts, operations and tokens.
func TestCompletionOffersNames(t *testing.T) {
	mesh := startMesh(t)
	served := wellMesh()
	path := mesh.kubeconfig(t, "default")
	mesh.configMap(t, "settings", "a")
	if code, _, stderr := run(t, "--kubeconfig", path, "vm", "create", "web", "--image", "i"); code != 0 {
		t.Fatal(stderr)
	}
	operation := writeFile(t, "operation.yaml", "apiVersion: mesh.virtmesh.io/v1alpha1\nkind: Operation\nmetadata: {name: remove-host3}\nspec: {type: RemoveHost, target: host3}\n")
	if code, _, stderr := run(t, "--kubeconfig", path, "apply", "-f", operation); code != 0 {
		t.Fatal(stderr)
	}
	hosts := serve(t, served)
	served.tokens = append(served.tokens, tokenNamed("t1"), tokenNamed("t2"))
	for typed, want := range map[string]string{
		"vm console": "web", "vm vnc": "web", "vm wait": "web", "vm delete": "web", "vm show": "web", "vm restart": "web",
		"operation show": "remove-host3", "operation watch": "remove-host3", "op cancel": "remove-host3",
		"get cm": "settings", "describe cm": "settings", "delete cm": "settings", "get": "operation",
	} {
		if got := offered(t, []string{"--kubeconfig", path}, typed); !slices.Contains(got, want) {
			t.Errorf("%s: offered %q, want %q", typed, got, want)
		}
	}
	for typed, want := range map[string]string{"node show": "host1", "node uncordon": "host2", "node remove": "host2", "token revoke t2": "t1"} {
		got := offered(t, hosts, typed)
		if !slices.Contains(got, want) || slices.Contains(got, "t2") {
			t.Errorf("%s: offered %q, want %q and not what stands there", typed, got, want)
		}
	}
	// Whatever is offered as a type is one.
	for _, name := range offered(t, hosts, "get") {
		if code, _, stderr := run(t, "--kubeconfig", path, "get", name, "-A"); code != 0 {
			t.Errorf("get %s: exit code %d, %s", name, code, stderr)
		}
	}
}

func offered(t *testing.T, connection []string, typed string) []string {
	t.Helper()
	code, stdout, stderr := run(t, append(append(slices.Clone(connection), strings.Fields(typed)...), completionFlag)...)
	if code != 0 || stderr != "" {
		t.Errorf("%s: exit code %d, stderr %q", typed, code, stderr)
	}
	return strings.Fields(stdout)
}
