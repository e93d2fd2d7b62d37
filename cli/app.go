// Package cli is the virtmesh command line: one file per noun or verb.
//
// Commands talk to an agent and hold no logic of their own: what a command
// does, kubectl can do as well. Output for people goes to stdout as text or
// tables, and as JSON or YAML with -o; errors go to stderr as one line, and
// the exit code is then not zero. No other package may import this one or
// urfave/cli.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/signal"
	"strings"
	"syscall"

	"github.com/urfave/cli/v2"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// Version is the product's version, set when it is built.
var Version = "0.1.0-dev"

// Run executes one command line and returns the process's exit code.
func Run(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	app := newApp(stdin, stdout, stderr)
	if err := app.RunContext(ctx, arrange(app, args)); err != nil {
		var exit exitError
		if errors.As(err, &exit) {
			return exit.code
		}
		fmt.Fprintln(stderr, "virtmesh: "+explain(err))
		return 1
	}
	return 0
}

// exitError ends the program with a code and without a further message.
type exitError struct{ code int }

func (e exitError) Error() string { return fmt.Sprintf("exit status %d", e.code) }

// explain turns an error into one line for a person.
func explain(err error) string {
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
		OnUsageError: func(_ *cli.Context, err error, _ bool) error {
			return fmt.Errorf("%w; 'virtmesh help' lists commands and flags", err)
		},
		Flags: connectionFlags(),
		CommandNotFound: func(c *cli.Context, name string) {
			fmt.Fprintf(stderr, "virtmesh: there is no command %q; 'virtmesh help' lists them\n", name)
		},
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return exitError{code: 2}
			}
			return cli.ShowAppHelp(c)
		},
		Commands: []*cli.Command{
			agentCommand(), tokenCommand(), kubeconfigCommand(),
			statusCommand(), doctorCommand(), nodeCommand(), vmCommand(),
			getCommand(), applyCommand(), deleteCommand(), describeCommand(), eventsCommand(),
			completionCommand(), labCommand(),
		},
	}
}
