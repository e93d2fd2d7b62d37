package cli

import (
	"fmt"

	"github.com/urfave/cli/v2"
)

// completionScripts make a shell ask this program for completions.
var completionScripts = map[string]string{
	"bash": `_virtmesh() {
  local words=("${COMP_WORDS[@]:0:$COMP_CWORD}")
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
compdef _virtmesh virtmesh
`,
	"fish": `complete -c virtmesh -f -a '(set -l words (commandline -opc); $words --generate-bash-completion 2>/dev/null)'
`,
}

func completionCommand() *cli.Command {
	return &cli.Command{
		Name: "completion", Usage: "print a shell's completion script", ArgsUsage: "bash|zsh|fish",
		Description: "For bash: 'source <(virtmesh completion bash)'.",
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
