package cli

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	"k8s.io/cli-runtime/pkg/resource"

	"virtmesh/agent/kinds"
	"virtmesh/agent/port/admin"
	"virtmesh/cli/lab"
)

// completionScripts make a shell ask this program for completions.
var completionScripts = map[string]string{
	"bash": `_virtmesh() {
  local words=("${COMP_WORDS[@]:0:$COMP_CWORD}")
  [[ "${COMP_WORDS[COMP_CWORD]}" == -* ]] && words+=("${COMP_WORDS[COMP_CWORD]}")
  COMPREPLY=($(compgen -W "$("${words[@]}" --generate-bash-completion 2>/dev/null)" -- "${COMP_WORDS[COMP_CWORD]}"))
}
complete -o default -F _virtmesh virtmesh
`,
	"zsh": `#compdef virtmesh
_virtmesh() {
  local -a found
  found=("${(@f)$(${words[@]:0:$((CURRENT - 1))} --generate-bash-completion 2>/dev/null)}")
  _describe 'values' found
}
# zsh runs an installed file at the first completion, and a shell that sources it before.
if [[ "$funcstack[1]" == _virtmesh ]]; then
  _virtmesh "$@"
else
  compdef _virtmesh virtmesh
fi
`,
	"fish": `complete -c virtmesh -f -a '(set -l words (commandline -opc); $words --generate-bash-completion 2>/dev/null)'
`,
}

func completionCommand() *cli.Command {
	return &cli.Command{
		Name: "completion", Usage: "print a shell's completion script", ArgsUsage: "bash|zsh|fish",
		Description:  "For bash: 'source <(virtmesh completion bash)'.",
		BashComplete: offer(func(*cli.Context) ([]string, error) { return []string{"bash", "fish", "zsh"}, nil }),
		Action: func(c *cli.Context) error {
			script, ok := completionScripts[c.Args().First()]
			if !ok {
				return fmt.Errorf("there is completion for bash, zsh and fish, not for %q", c.Args().First())
			}
			_, err := fmt.Fprint(c.App.Writer, script)
			return err
		},
	}
}

// completionTimeout bounds how long a shell waits for names.
const completionTimeout = 3 * time.Second

// typedWord is the key of the word before the cursor in the app's metadata.
const typedWord = "typed"

// forCompletion prepares a command line on which a shell asks for completions, and
// leaves others alone. It returns false when there can be no answer: after "--"
// urfave/cli would run the command instead of completing it.
func forCompletion(app *cli.App, args []string) (prepared []string, answerable bool) {
	n := len(args)
	if n < 2 || args[n-1] != completionFlag {
		return args, true
	}
	app.Metadata = map[string]any{typedWord: args[n-2]}
	if args[n-2] == "--" {
		// It is the beginning of a flag.
		args = append(args[:n-2:n-2], completionFlag)
	}
	return args, !slices.Contains(args, "--")
}

// complete prints completions for a shell: flags if a flag is being typed, else
// subcommands, else the words that the command itself offers.
func complete(own cli.BashCompleteFunc) cli.BashCompleteFunc {
	return func(c *cli.Context) {
		typed, _ := c.App.Metadata[typedWord].(string)
		switch {
		case strings.HasPrefix(typed, "-") && !takesValue(c.Command.Flags, typed):
			for _, flag := range c.Command.VisibleFlags() {
				if name := "--" + flag.Names()[0]; strings.HasPrefix(name, typed) {
					fmt.Fprintln(c.App.Writer, name)
				}
			}
		case strings.HasPrefix(typed, "-"):
		case len(c.Command.Subcommands) > 0:
			for _, command := range c.Command.VisibleCommands() {
				fmt.Fprintln(c.App.Writer, command.Name)
			}
		case own != nil:
			own(c)
		}
	}
}

// takesValue reports whether a word is a whole flag whose value comes next.
func takesValue(flags []cli.Flag, word string) bool {
	known := findFlag(flags, strings.TrimLeft(word, "-"))
	_, isBool := known.(*cli.BoolFlag)
	return known != nil && !isBool
}

// offer completes arguments with the listed words that are not on the command line
// yet. If the list fails, it offers nothing: a shell cannot show an error.
func offer(list func(*cli.Context) ([]string, error)) cli.BashCompleteFunc {
	return func(c *cli.Context) {
		ctx, cancel := context.WithTimeout(c.Context, completionTimeout)
		defer cancel()
		c.Context = ctx
		words, err := list(c)
		if err != nil {
			return
		}
		for _, word := range words {
			if !slices.Contains(c.Args().Slice(), word) {
				fmt.Fprintln(c.App.Writer, word)
			}
		}
	}
}

// typeNames are the types of the catalogue; of those whose name is long, the short one.
func typeNames() []string {
	const long = len("storageclass")
	var names []string
	for _, kind := range kinds.All() {
		name := kind.Singular
		if len(name) > long && len(kind.ShortNames) > 0 {
			name = kind.ShortNames[0]
		}
		names = append(names, name)
	}
	return names
}

// typesThenNames completes a type, and names of that type after it.
func typesThenNames(c *cli.Context) ([]string, error) {
	if !c.Args().Present() {
		return typeNames(), nil
	}
	return namesOf(c, c.Args().First())
}

func vmNames(c *cli.Context) ([]string, error) { return namesOf(c, "virtualmachines.kubevirt.io") }

func operationNames(c *cli.Context) ([]string, error) {
	return namesOf(c, "operations.mesh.virtmesh.io")
}

func tokenIDs(c *cli.Context) ([]string, error) {
	conn, err := connect(c)
	if err != nil {
		return nil, err
	}
	var tokens []admin.Token
	if err := conn.mesh(c.Context, http.MethodGet, "/mesh/v1/tokens", nil, &tokens); err != nil {
		return nil, err
	}
	ids := make([]string, 0, len(tokens))
	for _, token := range tokens {
		ids = append(ids, token.ID)
	}
	return ids, nil
}

func namesOf(c *cli.Context, kind string) ([]string, error) {
	conn, err := connect(c)
	if err != nil {
		return nil, err
	}
	conn.rest.Timeout = completionTimeout
	var names []string
	err = conn.builder().Unstructured().ResourceTypeOrNameArgs(true, kind).Flatten().Do().
		Visit(func(info *resource.Info, err error) error {
			names = append(names, info.Name)
			return err
		})
	return names, err
}

func memberNames(c *cli.Context) ([]string, error) {
	conn, err := connect(c)
	if err != nil {
		return nil, err
	}
	var status admin.Status
	if err := conn.mesh(c.Context, http.MethodGet, statusPath, nil, &status); err != nil {
		return nil, err
	}
	names := make([]string, 0, len(status.Members))
	for _, member := range status.Members {
		names = append(names, member.Name)
	}
	return names, nil
}

func labHostNames(c *cli.Context) ([]string, error) {
	if c.Args().Present() {
		return nil, nil
	}
	l, err := lab.Open(c.String("dir"))
	if err != nil {
		return nil, err
	}
	return hostNames(l), nil
}
