package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
)

// chassis is what a lab's hosts are made of: namespaces of this machine's kernel, or
// whole machines. The lab calls it with the host's lock held, except command.
type chassis interface {
	// boot switches on a host that is off. It returns when commands can run in it.
	boot(ctx context.Context, h Host, progress func(string, ...any)) error
	// command prepares a command that runs in a host that is on, whose first process is
	// pid. It does not start it.
	command(ctx context.Context, h Host, pid int, argv []string) *exec.Cmd
	// install puts the program into a host that is on, unless it is there. pkg is a
	// package to install, or empty for the running program.
	install(ctx context.Context, h Host, pkg string, progress func(string, ...any)) error
	// program is what the program is called inside a host.
	program() string
	// enrolFlags tell init and join what the host has besides its own directory.
	enrolFlags(h Host) []string
}

func (l *Lab) chassis() chassis {
	if l.state.Metal {
		return machines{l}
	}
	return namespaces{l}
}

// Running returns the host's first process, or 0 when the host is off.
func (l *Lab) Running(h Host) (int, error) { return runningProcess(l.initRecord(h)) }

func (l *Lab) initRecord(h Host) string { return filepath.Join(l.hostDir(h), "init.json") }

// Start powers a host on and returns once its processes are being started.
// A host that is on stays as it is.
func (l *Lab) Start(ctx context.Context, h Host) error {
	return l.start(ctx, h, func(string, ...any) {})
}

func (l *Lab) start(ctx context.Context, h Host, progress func(string, ...any)) error {
	unlock, err := l.lockHost(h)
	if err != nil {
		return err
	}
	defer unlock()
	pid, err := l.Running(h)
	if err != nil || pid != 0 {
		return err
	}
	if err := os.MkdirAll(l.LogDir(h), 0o700); err != nil {
		return fmt.Errorf("make the directories of %s: %w", h.Name, err)
	}
	return l.chassis().boot(ctx, h, progress)
}

// Kill cuts the host's power: every process in it ends at once, what it had
// not written to disk is lost, and its state on disk stays.
func (l *Lab) Kill(ctx context.Context, h Host) error {
	if _, err := os.Stat(l.hostDir(h)); errors.Is(err, fs.ErrNotExist) {
		return nil // it was never on
	}
	unlock, err := l.lockHost(h)
	if err != nil {
		return err
	}
	defer unlock()
	if err := killProcess(l.initRecord(h)); err != nil {
		return err
	}
	// The kernel keeps a network namespace for as long as its connections take to
	// time out.
	return l.unplugCables(ctx, h)
}

// Command prepares a command that runs inside the host. It returns an error
// when the host is off.
func (l *Lab) Command(ctx context.Context, h Host, argv ...string) (*exec.Cmd, error) {
	pid, err := l.Running(h)
	if err != nil {
		return nil, err
	}
	if pid == 0 {
		return nil, fmt.Errorf("%s is off; 'virtmesh lab start %s' powers it on", h.Name, h.Name)
	}
	return l.chassis().command(ctx, h, pid, argv), nil
}
