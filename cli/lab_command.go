package cli

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"github.com/urfave/cli/v2"

	"virtmesh/cli/lab"
)

func labCommand() *cli.Command {
	return &cli.Command{
		Name: "lab", Usage: "run a whole mesh on this machine, to try and test it",
		Flags: []cli.Flag{&cli.StringFlag{Name: "dir", Value: lab.DefaultDir, Usage: "the lab's directory", EnvVars: []string{"VIRTMESH_LAB_DIR"}}},
		Subcommands: []*cli.Command{
			{Name: "up", Usage: "start a lab, or add hosts to it; returns when all hosts are Ready",
				Flags: []cli.Flag{
					&cli.BoolFlag{Name: "witness", Usage: "one host more, which votes and runs no guests"}, &cli.IntFlag{Name: "hosts", Value: 3, Usage: "how many hosts the lab has"},
					&cli.BoolFlag{Name: "metal", Usage: "each host is a whole machine, with Debian's kernel, systemd and libvirtd"},
					&cli.PathFlag{Name: "package", Usage: "the .deb of virtmesh to install, with --metal; else hosts get this program"},
				},
				Action: labUp},
			{Name: "env", Usage: "print the shell line that points kubectl at a host", ArgsUsage: "[HOST]", Action: labEnv, BashComplete: offer(labHostNames)},
			{Name: "exec", Usage: "run a command inside a host", ArgsUsage: "HOST -- COMMAND [ARG...]", Action: labExec, BashComplete: offer(labHostNames)},
			{Name: "kill", Usage: "cut a host's power", ArgsUsage: "HOST", BashComplete: offer(labHostNames),
				Action: onHost(func(c *cli.Context, l *lab.Lab, h lab.Host) error { return l.Kill(c.Context, h) })},
			{Name: "start", Usage: "power a host on", ArgsUsage: "HOST", BashComplete: offer(labHostNames),
				Action: onHost(func(c *cli.Context, l *lab.Lab, h lab.Host) error { return l.Start(c.Context, h) })},
			{Name: "cut", Usage: "unplug a host's network", ArgsUsage: "HOST", BashComplete: offer(labHostNames),
				Action: onHost(func(c *cli.Context, l *lab.Lab, h lab.Host) error { return l.Cut(c.Context, h) })},
			{Name: "heal", Usage: "plug a host's network in again", ArgsUsage: "HOST", BashComplete: offer(labHostNames),
				Action: onHost(func(c *cli.Context, l *lab.Lab, h lab.Host) error { return l.Heal(c.Context, h) })},
			{Name: "image", Usage: "put a guest image into the lab's registry and print its reference", ArgsUsage: "tiny|debian|URL|FILE", Action: labImage},
			{Name: "ls", Usage: "list the lab's hosts", Flags: []cli.Flag{outputFlag()}, Action: labList},
			{Name: "down", Usage: "end the lab and remove what it made", Action: labDown},
			{Name: "registry", Hidden: true, Action: labRegistry},
			{Name: "host-init", Hidden: true, Action: func(c *cli.Context) error { return lab.RunInit(c.App.Reader) }},
			{Name: "host-services", Hidden: true, Action: func(c *cli.Context) error {
				return lab.RunServices(c.Context, slog.New(slog.NewTextHandler(c.App.ErrWriter, nil)))
			}},
		},
	}
}

// progress prints what a long command does now, on stderr so that stdout
// carries results only.
func progress(w io.Writer) func(string, ...any) {
	return func(format string, args ...any) { fmt.Fprintf(w, "  "+format+"\n", args...) }
}

func labUp(c *cli.Context) error {
	l, err := lab.Open(c.String("dir"))
	if err != nil {
		return err
	}
	if err := l.Up(c.Context, lab.Wanted{Hosts: c.Int("hosts"), Witness: c.Bool("witness"), Metal: c.Bool("metal"), Package: c.Path("package")}, progress(c.App.ErrWriter)); err != nil {
		return err
	}
	_, err = fmt.Fprintf(c.App.Writer, "%d hosts are Ready: %s\n", len(l.Hosts()), strings.Join(hostNames(l), " "))
	return err
}

func hostNames(l *lab.Lab) []string {
	names := make([]string, 0, len(l.Hosts()))
	for _, h := range l.Hosts() {
		names = append(names, h.Name)
	}
	return names
}

// onHost opens the lab and finds the host that the first argument names.
func onHost(do func(*cli.Context, *lab.Lab, lab.Host) error) cli.ActionFunc {
	return func(c *cli.Context) error {
		if !c.Args().Present() {
			return errors.New("name a host; 'virtmesh lab ls' lists them")
		}
		l, h, err := labHost(c)
		if err != nil {
			return err
		}
		return do(c, l, h)
	}
}

func labHost(c *cli.Context) (*lab.Lab, lab.Host, error) {
	l, err := lab.Open(c.String("dir"))
	if err != nil {
		return nil, lab.Host{}, err
	}
	h, err := l.Host(c.Args().First())
	return l, h, err
}

func labEnv(c *cli.Context) error {
	l, h, err := labHost(c)
	if err != nil {
		return err
	}
	path := l.Kubeconfig(h)
	if _, err := os.Stat(path); err != nil {
		return fmt.Errorf("%s is not in the mesh yet: %w; 'virtmesh lab up' goes on with it", h.Name, err)
	}
	_, err = fmt.Fprintf(c.App.Writer, "export KUBECONFIG=%s\n", lab.ShellWord(path))
	return err
}

func labExec(c *cli.Context) error {
	args := c.Args().Slice()
	if len(args) > 1 && args[1] == "--" {
		args = append(args[:1:1], args[2:]...)
	}
	if len(args) < 2 {
		return errors.New("usage: virtmesh lab exec HOST -- COMMAND [ARG...]")
	}
	l, h, err := labHost(c)
	if err != nil {
		return err
	}
	cmd, err := l.Command(c.Context, h, args[1:]...)
	if err != nil {
		return err
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = c.App.Reader, c.App.Writer, c.App.ErrWriter
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	err = cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exitError{code: exit.ExitCode()}
	}
	return err
}

func labList(c *cli.Context) error {
	l, err := lab.Open(c.String("dir"))
	if err != nil {
		return err
	}
	if !l.Exists() {
		return lab.ErrNoLab
	}
	type row struct {
		lab.Host
		Running bool `json:"running"`
	}
	var list []row
	for _, h := range l.Hosts() {
		pid, err := l.Running(h)
		if err != nil {
			return err
		}
		list = append(list, row{h, pid != 0})
	}
	if printed, err := printValue(c, list); printed {
		return err
	}
	rows := make([][]string, 0, len(list))
	for _, h := range list {
		power := "off"
		if h.Running {
			power = "on"
		}
		rows = append(rows, []string{h.Name, power, h.Address, l.LogDir(h.Host)})
	}
	return printColumns(c.App.Writer, []string{"NAME", "POWER", "ADDRESS", "LOGS"}, rows)
}

func labDown(c *cli.Context) error {
	l, err := lab.Open(c.String("dir"))
	if err != nil {
		return err
	}
	if err := l.Down(c.Context); err != nil {
		return err
	}
	_, err = fmt.Fprintln(c.App.Writer, "the lab is gone")
	return err
}

func labImage(c *cli.Context) error {
	if c.NArg() != 1 {
		return errors.New("name one image: tiny, debian, a URL or a file")
	}
	l, err := lab.Open(c.String("dir"))
	if err != nil {
		return err
	}
	reference, err := l.Image(c.Context, c.Args().First(), progress(c.App.ErrWriter))
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(c.App.Writer, reference)
	return err
}

func labRegistry(c *cli.Context) error {
	l, err := lab.Open(c.String("dir"))
	if err != nil {
		return err
	}
	return l.ServeRegistry(c.Context)
}
