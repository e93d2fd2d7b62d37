package cli

import (
	"strings"

	"github.com/urfave/cli/v2"
)

// completionFlag is what a shell appends to ask for completions. urfave/cli
// looks for it at the very end only.
const completionFlag = "--generate-bash-completion"

// arrangeFlags lets flags stand anywhere on a command line, as users of kubectl
// expect: urfave/cli stops looking for flags at the first argument. Flags of
// the command move before its arguments, those of its parents before its name
// and global flags before all names. Words after "--", or after the host of a
// command that runs another program, are left alone.
func arrangeFlags(app *cli.App, args []string) []string {
	if len(args) == 0 {
		return args
	}
	asked := args[len(args)-1] == completionFlag
	if asked {
		args = args[:len(args)-1]
	}
	a := arranger{levels: []commandLevel{{name: args[0], known: app.Flags}}, commands: app.Commands}
	for i := 1; i < len(args); i++ {
		arg := args[i]
		if a.passthrough && (arg == "--" || len(a.arguments) > 0) {
			a.arguments = append(a.arguments, args[i:]...)
			break
		}
		if arg == "--" {
			a.literal = append(a.literal, args[i:]...)
			break
		}
		if len(arg) < 2 || arg[0] != '-' {
			a.addWord(arg)
			continue
		}
		i += a.addFlag(arg, args[i+1:])
	}
	arranged := a.arranged()
	if asked {
		arranged = append(arranged, completionFlag)
	}
	return arranged
}

// commandLevel is one command of the command line, with the flags given to it.
type commandLevel struct {
	name  string
	known []cli.Flag
	flags []string
}

// arranger sorts words as it walks down the tree of commands.
type arranger struct {
	levels      []commandLevel
	commands    []*cli.Command
	passthrough bool
	arguments   []string
	// literal is "--" and what follows it.
	literal []string
}

// arranged returns the sorted command line. It puts "--" before all arguments: after
// an argument, urfave/cli would take "--" for an argument too.
func (a *arranger) arranged() []string {
	var all []string
	for _, level := range a.levels {
		all = append(append(all, level.name), level.flags...)
	}
	if len(a.literal) == 0 {
		return append(all, a.arguments...)
	}
	return append(append(append(all, a.literal[0]), a.arguments...), a.literal[1:]...)
}

// addWord adds a word that is not a flag: a command's name while there are
// subcommands, else an argument.
func (a *arranger) addWord(arg string) {
	if len(a.arguments) == 0 {
		for _, command := range a.commands {
			if command.HasName(arg) {
				a.levels = append(a.levels, commandLevel{name: arg, known: command.Flags})
				a.commands = command.Subcommands
				a.passthrough = command.Name == "exec"
				return
			}
		}
	}
	a.arguments = append(a.arguments, arg)
}

// addFlag adds a flag and its value to the innermost command that knows it, and
// returns how many of the words in rest it used.
func (a *arranger) addFlag(arg string, rest []string) int {
	name, _, hasValue := strings.Cut(strings.TrimLeft(arg, "-"), "=")
	// An unknown flag goes to the innermost command, which reports the error.
	target := &a.levels[len(a.levels)-1]
	var known cli.Flag
	for i := len(a.levels) - 1; i >= 0; i-- {
		if known = findFlag(a.levels[i].known, name); known != nil {
			target = &a.levels[i]
			break
		}
	}
	target.flags = append(target.flags, arg)
	if _, isBool := known.(*cli.BoolFlag); known == nil || isBool || hasValue || len(rest) == 0 {
		return 0
	}
	target.flags = append(target.flags, rest[0])
	return 1
}

func findFlag(flags []cli.Flag, name string) cli.Flag {
	for _, flag := range flags {
		for _, n := range flag.Names() {
			if n == name {
				return flag
			}
		}
	}
	return nil
}
