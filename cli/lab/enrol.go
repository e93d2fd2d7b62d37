package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"strings"

	"virtmesh/agent/host"
)

func (l *Lab) joinHost(ctx context.Context, first, h Host, progress func(string, ...any)) error {
	joined, err := l.joined(ctx, h)
	if err != nil {
		return err
	}
	if !joined {
		progress("joining %s", h.Name)
		token, err := l.virtmesh(ctx, first, "token", "create", "--ttl", "10m")
		if err != nil {
			return err
		}
		address := net.JoinHostPort(first.Address, fmt.Sprint(MeshPort))
		flags := l.chassis().enrolFlags(h)
		if h.Witness {
			flags = []string{"--advertise", h.Address, "--role", host.RoleWitness}
		}
		args := append([]string{"agent", "join", address, "--token", "-"}, flags...)
		if _, err := l.virtmeshReading(ctx, h, token, args...); err != nil {
			return err
		}
	}
	return l.waitAgent(ctx, h)
}

// joined tells whether the host belongs to a mesh; its configuration is the
// last thing that init and join write.
func (l *Lab) joined(ctx context.Context, h Host) (bool, error) {
	cmd, err := l.Command(ctx, h, "test", "-e", agentEnabled)
	if err != nil {
		return false, err
	}
	var exit *exec.ExitError
	if err := cmd.Run(); errors.As(err, &exit) && exit.ExitCode() == 1 {
		return false, nil
	} else if err != nil {
		return false, fmt.Errorf("find out whether %s is in a mesh: %w", h.Name, err)
	}
	return true, nil
}

// virtmesh runs a command of this program inside a host and returns what it
// printed.
func (l *Lab) virtmesh(ctx context.Context, h Host, args ...string) (string, error) {
	return l.virtmeshReading(ctx, h, "", args...)
}

// virtmeshReading is virtmesh for a command that reads input.
func (l *Lab) virtmeshReading(ctx context.Context, h Host, input string, args ...string) (string, error) {
	cmd, err := l.Command(ctx, h, append([]string{l.chassis().program()}, args...)...)
	if err != nil {
		return "", err
	}
	var stderr bytes.Buffer
	cmd.Stdin, cmd.Stderr = strings.NewReader(input), &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s: virtmesh %s: %w: %s", h.Name, strings.Join(args[:2], " "), err, strings.TrimSpace(stderr.String()))
	}
	return string(out), nil
}
