package cli

import (
	"strings"

	"github.com/urfave/cli/v2"
)

// arrange lets flags stand anywhere on a command line, as users of kubectl
// expect: urfave/cli stops looking for flags at the first argument. Flags of
// the command move before its arguments and global flags before the command.
// What follows a command that runs another program, or "--", is left alone.
func arrange(app *cli.App, args []string) []string {
	if len(args) == 0 {
		return args
	}
	a := arranger{global: app.Flags, commands: app.Commands, path: args[:1:1]}
	for i := 1; i < len(args); i++ {
		arg := args[i]
		if arg == "--" || a.passthrough && len(a.arguments) > 0 {
			a.arguments = append(a.arguments, args[i:]...)
			break
		}
		if len(arg) < 2 || arg[0] != '-' {
			a.word(arg)
			continue
		}
		taken := a.flag(arg, args[i+1:])
		i += taken
	}
	return append(append(append(a.front(), a.path[1:]...), a.flags...), a.arguments...)
}

// arranger sorts words as it walks down the tree of commands.
type arranger struct {
	global      []cli.Flag
	commands    []*cli.Command
	own         []cli.Flag
	passthrough bool

	path, globals, flags, arguments []string
}

func (a *arranger) front() []string { return append(a.path[:1:1], a.globals...) }

// word is a command's name as long as there are subcommands, else an argument.
func (a *arranger) word(arg string) {
	if len(a.arguments) == 0 {
		for _, command := range a.commands {
			if command.HasName(arg) {
				// A parent's flags stay before the subcommand's name.
				a.path = append(append(a.path, a.flags...), arg)
				a.flags = nil
				a.commands, a.own = command.Subcommands, command.Flags
				a.passthrough = command.Name == "exec"
				return
			}
		}
	}
	a.arguments = append(a.arguments, arg)
}

// flag files a flag with its value and returns how many further words it took.
func (a *arranger) flag(arg string, rest []string) int {
	name, _, hasValue := strings.Cut(strings.TrimLeft(arg, "-"), "=")
	target, known := &a.flags, find(a.own, name)
	if known == nil {
		if known = find(a.global, name); known != nil {
			target = &a.globals
		}
	}
	*target = append(*target, arg)
	if _, isBool := known.(*cli.BoolFlag); known == nil || isBool || hasValue || len(rest) == 0 {
		return 0
	}
	*target = append(*target, rest[0])
	return 1
}

func find(flags []cli.Flag, name string) cli.Flag {
	for _, flag := range flags {
		for _, n := range flag.Names() {
			if n == name {
				return flag
			}
		}
	}
	return nil
}
