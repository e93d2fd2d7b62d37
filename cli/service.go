package cli

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"virtmesh/netplug/guestservices"
)

// unit is the service that runs the agent on a real host, as the package installs it.
//
//go:embed virtmesh.service
var unit string

// guestServicesUnit is the service that answers guests; the agent's starts it.
//
//go:embed virtmesh-guest-services.service
var guestServicesUnit string

// shutdownUnit is the service that ends guests when the host is shut down; the agent's starts
// it, and nothing stops it but the shutdown.
//
//go:embed virtmesh-shutdown.service
var shutdownUnit string

const (
	unitName         = "virtmesh.service"
	shutdownUnitName = "virtmesh-shutdown.service"
)

// packagedProgram is where the package puts the program, and what its unit runs.
const packagedProgram = "/usr/bin/virtmesh"

// unitFolders says where systemd's units are. systemd takes an administrator's unit in
// place of a packaged one of the same name.
type unitFolders struct {
	packaged      []string
	administrator string
}

func systemUnits() unitFolders {
	return unitFolders{packaged: []string{"/usr/lib/systemd/system", "/lib/systemd/system"}, administrator: "/etc/systemd/system"}
}

// startService enables and starts the agent's unit. If no package has installed a unit for
// this program, it writes one first. It returns false on a machine whose init is not
// systemd.
func startService(ctx context.Context) (bool, error) {
	if _, err := os.Stat("/run/systemd/system"); err != nil {
		return false, nil
	}
	executable, err := os.Executable()
	if err != nil {
		return false, fmt.Errorf("find this program: %w", err)
	}
	if err := systemUnits().provide(executable); err != nil {
		return false, fmt.Errorf("install the service: %w", err)
	}
	for _, args := range [][]string{
		// What the package's sysusers.d says.
		{"systemd-sysusers", "--inline", "u " + guestservices.UserName + ` - "virtmesh guest services" - -`},
		{"systemctl", "daemon-reload"}, {"systemctl", "enable", "--now", unitName},
	} {
		if out, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput(); err != nil {
			return false, fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
		}
	}
	return true, nil
}

// provide makes the units that systemd takes run the given program. A packaged unit that
// does so is used as it is, and so is what an administrator made of it; a unit for another
// program, which an earlier installation by hand has left, is removed. Without a packaged
// unit for this program, one is written. Guest services get none if their user could not
// execute the program; the agent then starts them itself.
func (f unitFolders) provide(executable string) error {
	err := errors.Join(f.provideUnit(unitName, unit, executable), f.provideUnit(shutdownUnitName, shutdownUnit, executable))
	if isForAllUsers(executable) {
		return errors.Join(err, f.provideUnit(guestservices.UnitName, guestServicesUnit, executable))
	}
	stale := filepath.Join(f.administrator, guestservices.UnitName)
	if rmErr := os.Remove(stale); !errors.Is(rmErr, fs.ErrNotExist) {
		err = errors.Join(err, rmErr)
	}
	return err
}

// isForAllUsers reports whether a program can be executed by a service with a user of its
// own and ProtectHome=, which hides the folders that systemd.exec(5) lists.
func isForAllUsers(program string) bool {
	for _, hidden := range []string{"/home/", "/root/", "/run/user/"} {
		if strings.HasPrefix(program, hidden) {
			return false
		}
	}
	for dir := filepath.Dir(program); ; dir = filepath.Dir(dir) {
		if info, err := os.Stat(dir); err != nil || info.Mode().Perm()&0o001 == 0 {
			return false
		}
		if dir == filepath.Dir(dir) {
			return true
		}
	}
}

func (f unitFolders) provideUnit(name, unit, executable string) error {
	own := filepath.Join(f.administrator, name)
	packaged := false
	for _, folder := range f.packaged {
		runs, err := runsProgram(filepath.Join(folder, name), executable)
		if err != nil {
			return err
		}
		packaged = packaged || runs
	}
	if !packaged {
		return os.WriteFile(own, []byte(unitFor(unit, executable)), 0o644)
	}
	if runs, err := runsProgram(own, executable); runs || err != nil {
		return err
	}
	if err := os.Remove(own); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// unitFor returns a packaged unit for a program that no package has installed.
func unitFor(unit, program string) string { return strings.Replace(unit, packagedProgram, program, 1) }

// runsProgram reports whether the unit in a file runs a program; false without the file.
func runsProgram(path, program string) (bool, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return strings.Contains(string(text), "\nExecStart="+program+" ") || strings.Contains(string(text), "\nExecStop="+program+" "), nil
}
