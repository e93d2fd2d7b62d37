// Package cli is the virtmesh command line: one file per noun or verb.
//
// Commands send requests to an agent and contain no logic of their own; where the
// Kubernetes API can do the same, kubectl can as well. Output goes to stdout as text
// or tables, or as JSON or YAML with -o. Errors go to stderr as one line, and the
// exit code is then not zero. No other package may import this one or urfave/cli.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os/signal"
	"strings"
	"syscall"

	"github.com/urfave/cli/v2"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"

	"virtmesh/agent"
	"virtmesh/agent/fault"
)

// Version is the product's version, set when it is built.
var Version = "0.1.0-dev"

// Run executes one command line and returns the process's exit code.
func Run(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	app := newApp(stdin, stdout, stderr)
	// What libraries log repeats an error that the command prints itself.
	agent.SetLibraryLogger(slog.New(slog.DiscardHandler))
	args, answerable := forCompletion(app, args)
	if !answerable {
		return 0
	}
	if err := app.RunContext(ctx, arrangeFlags(app, args)); err != nil {
		var exit exitError
		if errors.As(err, &exit) {
			return exit.code
		}
		err = joined(err)
		fmt.Fprintln(stderr, "virtmesh: "+explain(err))
		return exitCode(err)
	}
	return 0
}

// joined makes of an aggregate, which the library for manifests returns and whose parts
// errors.As does not see, errors that it sees.
func joined(err error) error {
	//nolint:errorlint // what is wrapped around an aggregate must not get lost
	aggregate, ok := err.(utilerrors.Aggregate)
	switch {
	case !ok:
		return err
	case len(aggregate.Errors()) == 1:
		return joined(aggregate.Errors()[0])
	}
	return errors.Join(utilerrors.Flatten(aggregate).Errors()...)
}

// exitError ends the program with a code and without a further message.
type exitError struct{ code int }

func (e exitError) Error() string { return fmt.Sprintf("exit status %d", e.code) }

// exitCode returns the program's exit code for an error. The codes tell scripts what to
// do next; docs/operate.md lists them.
func exitCode(err error) int {
	if errors.Is(err, context.Canceled) {
		return 1
	}
	switch fault.CodeOf(err) {
	case fault.NotFound, fault.NoHost:
		return 4
	case fault.Conflict, fault.AlreadyExists, fault.HostTaken, fault.NotRunning, fault.NoGuestAgent:
		return 5
	case fault.Unauthorized, fault.Forbidden, fault.Expelled:
		return 6
	case fault.Unavailable, fault.Unreachable, fault.TooMany:
		return 7
	case fault.UnknownOutcome:
		return 8
	}
	return 1
}

// listOfKinds says where users find what this version can do.
const listOfKinds = "docs/api-coverage.md lists the kinds that this version serves"

// explain turns an error into one line for a person.
func explain(err error) string {
	if several, ok := err.(interface{ Unwrap() []error }); ok {
		if all := several.Unwrap(); len(all) > 1 && err.Error() == errors.Join(all...).Error() {
			lines := make([]string, 0, len(all))
			for _, one := range all {
				lines = append(lines, explain(one))
			}
			return strings.Join(lines, "; ")
		}
	}
	var request *url.Error
	if errors.As(err, &request) && fault.Known(request.Err) {
		err = request.Err // the URL of a request tells users nothing
	}
	if strings.Contains(err.Error(), "no application protocol") {
		return "the host does not serve its API yet: its agent is starting; try again in a few seconds"
	}
	if text := explainOtherCA(err); text != "" {
		return text
	}
	var kind *meta.NoKindMatchError
	if errors.As(err, &kind) {
		return fmt.Sprintf("this mesh does not serve the kind %s of %s; %s", kind.GroupKind.Kind, kind.GroupKind.Group, listOfKinds)
	}
	if apierrors.IsUnauthorized(err) && strings.Contains(err.Error(), "has asked for the client to provide credentials") {
		// The library for the API's clients has dropped the host's own words.
		return "the hosts do not take the kubeconfig's certificate: it was revoked, or is not in the mesh's list ('virtmesh cert ls'); root on any host makes a new one: virtmesh kubeconfig --output FILE"
	}
	var status apierrors.APIStatus
	if errors.As(err, &status) && status.Status().Message != "" {
		return strings.ReplaceAll(status.Status().Message, "\n", " ")
	}
	return strings.ReplaceAll(strings.TrimSpace(err.Error()), "\n", "; ")
}

func newApp(stdin io.Reader, stdout, stderr io.Writer) *cli.App {
	return &cli.App{
		Name:                      "virtmesh",
		Usage:                     "run virtual machines on a mesh of identical hosts",
		Version:                   Version,
		EnableBashCompletion:      true,
		Suggest:                   true,
		DisableSliceFlagSeparator: true,
		Reader:                    stdin,
		Writer:                    stdout,
		ErrWriter:                 stderr,
		ExitErrHandler:            func(*cli.Context, error) {},
		OnUsageError:              usageError("virtmesh"),
		Flags:                     connectionFlags(),
		BashComplete:              complete(nil),
		Action:                    groupAction("virtmesh", cli.ShowAppHelp),
		Commands: finishCommands("virtmesh", []*cli.Command{
			agentCommand(), tokenCommand(), keyringCommand(), caCommand(), gossipCommand(), secretsCommand(), kubeconfigCommand(), certCommand(), userCommand(),
			statusCommand(), doctorCommand(), nodeCommand(), levelCommand(), vmCommand(), operationCommand(),
			getCommand(), applyCommand(), deleteCommand(), describeCommand(), eventsCommand(),
			completionCommand(), labCommand(), manCommand(), guestServicesCommand(),
		}),
	}
}

// finishCommands adds to each command what urfave/cli does not inherit from the app:
// usage errors of one line instead of a page of help, errors for a subcommand that
// does not exist and for arguments that nothing would read, and completion.
func finishCommands(parent string, commands []*cli.Command) []*cli.Command {
	for _, command := range commands {
		name := parent + " " + command.Name
		command.OnUsageError = usageError(name)
		command.BashComplete = complete(command.BashComplete)
		if len(command.Subcommands) == 0 {
			command.HideHelpCommand = true
			command.Action = limitArguments(name, command.ArgsUsage, command.Action)
			continue
		}
		alone := command.Action
		if alone == nil {
			alone = cli.ShowSubcommandHelp
		}
		command.Action = groupAction(name, alone)
		finishCommands(name, command.Subcommands)
	}
	return commands
}

// groupAction returns the action of a command that has subcommands: alone is what it does
// without one, usually to print the help. An unknown subcommand is an error.
func groupAction(name string, alone cli.ActionFunc) cli.ActionFunc {
	return func(c *cli.Context) error {
		if !c.Args().Present() {
			return alone(c)
		}
		fmt.Fprintf(c.App.ErrWriter, "virtmesh: there is no command %q; '%s --help' lists them\n", name+" "+c.Args().First(), name)
		return exitError{code: 2}
	}
}

// limitArguments makes a command refuse arguments beyond those that its usage lists: it
// would leave them out without a word, and do less or other than what was meant.
func limitArguments(name, usage string, act cli.ActionFunc) cli.ActionFunc {
	if strings.Contains(usage, "...") {
		return act
	}
	limit := len(strings.Fields(usage))
	return func(c *cli.Context) error {
		if c.NArg() <= limit {
			return act(c)
		}
		takes := "no arguments"
		if limit > 0 {
			takes = "only " + usage
		}
		return fmt.Errorf("%s takes %s, and not %q; '%s --help' shows its flags", name, takes, c.Args().Get(limit), name)
	}
}

func usageError(command string) cli.OnUsageErrorFunc {
	return func(c *cli.Context, err error, _ bool) error {
		var flag, value string
		if n, _ := fmt.Sscanf(err.Error(), "invalid value %q for flag -%s", &value, &flag); n == 2 {
			flag = strings.TrimSuffix(flag, ":")
			return fmt.Errorf("--%s %q is not %s; '%s --help' explains it", flag, value, valueOf(c, flag), command)
		}
		return fmt.Errorf("%w; '%s --help' lists what there is", err, command)
	}
}

// valueOf says what a flag takes.
func valueOf(c *cli.Context, flag string) string {
	known := findFlag(c.App.Flags, flag)
	if c.Command != nil && findFlag(c.Command.Flags, flag) != nil {
		known = findFlag(c.Command.Flags, flag)
	}
	switch known.(type) {
	case *cli.DurationFlag:
		return "a time, such as 30s or 2m"
	case *cli.IntFlag, *cli.Int64Flag, *cli.UintFlag:
		return "a whole number"
	}
	return "a value that it takes"
}
