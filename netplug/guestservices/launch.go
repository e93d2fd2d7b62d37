package guestservices

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// UserName is the account of the process, which the package makes.
const UserName = "virtmesh-guests"

// UnitName is the unit that runs the process where there is systemd, for an agent whose
// folder is UnitDir.
const (
	UnitName = "virtmesh-guest-services.service"
	UnitDir  = "/run/virtmesh-guests"
)

// withoutAccount is the user and group ID of the process on a machine that has no account
// for it. Debian gives it to nobody, nor does systemd to a service.
const withoutAccount = 65530

// Account is who the process runs as.
type Account struct{ UID, GID int }

// FindAccount returns the account of the process on this machine.
func FindAccount() (Account, error) {
	u, err := user.Lookup(UserName)
	var unknown user.UnknownUserError
	if errors.As(err, &unknown) {
		return Account{withoutAccount, withoutAccount}, nil
	}
	if err != nil {
		return Account{}, fmt.Errorf("look up the account of guest services: %w", err)
	}
	uid, err := strconv.Atoi(u.Uid)
	if err != nil {
		return Account{}, fmt.Errorf("user ID of %s: %w", UserName, err)
	}
	gid, err := strconv.Atoi(u.Gid)
	if err != nil {
		return Account{}, fmt.Errorf("group ID of %s: %w", UserName, err)
	}
	return Account{uid, gid}, nil
}

// Launcher starts the process: by its unit on a machine whose systemd has that, or else
// itself, detached, so that it outlives who started it.
type Launcher struct {
	// Dir is the folder that the process shares with the agent.
	Dir     string
	Account Account
	Logger  *slog.Logger
	// Stderr is where a process that no service manager runs writes its log; nil for nowhere.
	Stderr *os.File
}

// Start implements ClientConfig.Start.
func (l Launcher) Start(ctx context.Context) error {
	if l.hasUnit(ctx) {
		if out, err := exec.CommandContext(ctx, "systemctl", "start", "--no-block", UnitName).CombinedOutput(); err != nil {
			return fmt.Errorf("systemctl start %s: %w: %s", UnitName, err, strings.TrimSpace(string(out)))
		}
		return nil
	}
	// It outlives ctx, and the agent. Its user need not reach the program by a path.
	cmd := exec.Command(Self, Arguments(l.Dir)...) //nolint:noctx // see above
	cmd.Args[0] = "virtmesh"
	cmd.Dir, cmd.Env = "/", []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	if l.Stderr != nil {
		cmd.Stderr = l.Stderr
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setsid:      true,
		Credential:  &syscall.Credential{Uid: uint32(l.Account.UID), Gid: uint32(l.Account.GID)},
		AmbientCaps: []uintptr{unix.CAP_NET_BIND_SERVICE},
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	l.Logger.Info("guest services are started", "pid", cmd.Process.Pid)
	// The goroutine lives as long as the process or the agent, whichever ends first. Nobody
	// needs its end; it leaves no zombie behind.
	go func() {
		if err := cmd.Wait(); err != nil {
			l.Logger.Warn("guest services have ended", "err", err)
		}
	}()
	return nil
}

// hasUnit reports whether systemd runs and has the unit for this folder.
func (l Launcher) hasUnit(ctx context.Context) bool {
	if l.Dir != UnitDir {
		return false
	}
	if _, err := os.Stat("/run/systemd/system"); err != nil {
		return false
	}
	out, err := exec.CommandContext(ctx, "systemctl", "show", "-P", "LoadState", UnitName).Output()
	return err == nil && strings.TrimSpace(string(out)) == "loaded"
}
