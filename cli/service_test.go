package cli

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"virtmesh/agent/host"
	"virtmesh/netplug/guestservices"
)

// TestServiceIsAlwaysRestarted checks that systemd never gives the agent up: a limit on
// starts belongs to [Unit], and systemd ignores it, with a warning, in [Service].
func TestServiceIsAlwaysRestarted(t *testing.T) {
	inUnit, service, _ := strings.Cut(unit, "[Service]")
	if !strings.Contains(inUnit, "\nStartLimitIntervalSec=0\n") {
		t.Error("systemd gives up after a few crashes: the unit's [Unit] section has no StartLimitIntervalSec=0")
	}
	if !strings.Contains(service, "\nRestart=always\n") {
		t.Error("systemd does not restart the agent")
	}
}

// TestServiceRunsThisProgram checks which unit systemd gets: the package's if it runs the
// program that was called, else one that was written for it.
func TestServiceRunsThisProgram(t *testing.T) {
	const byHand = "/usr/local/bin/virtmesh"
	unitFor := func(program string) string { return strings.Replace(unit, packagedProgram, program, 1) }
	edited := strings.Replace(unit, "RestartSec=1", "RestartSec=7", 1)
	for _, test := range []struct {
		name, executable, packaged, own string
		want                            string // the administrator's unit afterwards
	}{
		{"no package", byHand, "", "", unitFor(byHand)},
		{"no package, again with a newer version", byHand, "", "[Service]\nExecStart=/usr/local/bin/virtmesh agent run\n", unitFor(byHand)},
		{"package", packagedProgram, unit, "", ""},
		{"package after an installation by hand", packagedProgram, unit, unitFor(byHand), ""},
		{"package, and an administrator who edits its unit", packagedProgram, unit, edited, edited},
		{"package, and a program of one's own", byHand, unit, "", unitFor(byHand)},
	} {
		t.Run(test.name, func(t *testing.T) {
			folders := unitFolders{packaged: []string{t.TempDir(), t.TempDir()}, administrator: t.TempDir()}
			own := filepath.Join(folders.administrator, unitName)
			for path, text := range map[string]string{filepath.Join(folders.packaged[1], unitName): test.packaged, own: test.own} {
				if text == "" {
					continue
				}
				if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if err := folders.provide(test.executable); err != nil {
				t.Fatal(err)
			}
			got, err := os.ReadFile(own)
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				t.Fatal(err)
			}
			if string(got) != test.want {
				t.Errorf("the unit in %s is:\n%s\nand not:\n%s", folders.administrator, got, test.want)
			}
		})
	}
}

// TestGuestServicesNeedAProgramForAll checks that no unit is left for guest services if their
// user cannot execute the program: it would fail for ever, and keep the agent from starting
// them itself.
func TestGuestServicesNeedAProgramForAll(t *testing.T) {
	closed := t.TempDir()
	if err := os.Chmod(closed, 0o700); err != nil {
		t.Fatal(err)
	}
	for program, want := range map[string]bool{
		"/usr/local/bin/virtmesh": true, "/root/virtmesh": false, "/home/a/bin/virtmesh": false, "/run/user/0/virtmesh": false,
		filepath.Join(closed, "virtmesh"): false,
	} {
		folders := unitFolders{packaged: []string{t.TempDir()}, administrator: t.TempDir()}
		own := filepath.Join(folders.administrator, guestservices.UnitName)
		if err := os.WriteFile(own, []byte("[Service]\nExecStart=/old/virtmesh guest-services\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := folders.provide(program); err != nil {
			t.Fatal(err)
		}
		runs, err := runsProgram(own, program)
		if _, statErr := os.Stat(own); err != nil || runs != want || (statErr == nil) != want {
			t.Errorf("%s has a unit for guest services: %v (%v, %v), want %v", program, runs, statErr, err, want)
		}
		if runs, err := runsProgram(filepath.Join(folders.administrator, unitName), program); !runs || err != nil {
			t.Errorf("%s has no unit for the agent: %v", program, err)
		}
	}
}

// TestGuestServicesRunAsTheAgentBelieves checks what the unit, the package and the agent must
// agree on.
func TestGuestServicesRunAsTheAgentBelieves(t *testing.T) {
	users, err := os.ReadFile("../packaging/sysusers.conf")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(users), "\nu "+guestservices.UserName+` - "virtmesh guest services" - -`+"\n") {
		t.Errorf("the package makes no user %s as 'agent init' does:\n%s", guestservices.UserName, users)
	}
	for _, line := range []string{
		"ExecStart=" + packagedProgram + " " + strings.Join(guestservices.Arguments(guestservices.UnitDir), " "),
		"User=" + guestservices.UserName, "Group=" + guestservices.UserName, "ReadWritePaths=-" + guestservices.UnitDir,
		"ExecStartPre=+/usr/bin/install -d -m 3770 -o root -g " + guestservices.UserName + " " + guestservices.UnitDir,
	} {
		if !strings.Contains(guestServicesUnit, "\n"+line+"\n") {
			t.Errorf("the unit lacks the line %s", line)
		}
	}
	if !strings.Contains(unit, " "+guestservices.UnitName+"\n") {
		t.Error("the agent's unit does not start guest services")
	}
	if strings.Contains(guestServicesUnit, "PartOf=") || strings.Contains(guestServicesUnit, "BindsTo=") {
		t.Error("guest services end with another unit")
	}
}

// TestTheTimeOfGuestsFitsIntoAShutdown: systemd 252 and others give a shutdown half an hour
// (JobTimeoutSec of reboot.target and poweroff.target), and then force it. The agent ends first.
func TestTheTimeOfGuestsFitsIntoAShutdown(t *testing.T) {
	const jobTimeout, longest, patience = 30 * time.Minute, 25 * time.Minute, 2 * time.Minute
	stop := func(unit string) time.Duration {
		_, rest, _ := strings.Cut(unit, "\nTimeoutStopSec=")
		text, _, _ := strings.Cut(rest, "\n")
		if seconds, err := strconv.Atoi(text); err == nil {
			return time.Duration(seconds) * time.Second
		}
		span, err := time.ParseDuration(strings.TrimSuffix(text, "in"))
		if err != nil {
			t.Fatal(err)
		}
		return span
	}
	if all := stop(unit) + stop(shutdownUnit); all >= jobTimeout || stop(shutdownUnit) <= longest+patience {
		t.Errorf("the agent has %v, the guests %v", stop(unit), stop(shutdownUnit))
	}
	config := host.DefaultConfig(t.TempDir())
	for seconds, fits := range map[int64]bool{int64(longest.Seconds()): true, int64(longest.Seconds()) + 1: false} {
		config.Hypervisor.ShutdownSeconds = seconds
		if err := config.Validate(); (err == nil) != fits {
			t.Errorf("%d seconds: %v", seconds, err)
		}
	}
}

// TestGuestsEndBetweenAgentAndLibvirt checks the order at the host's shutdown, which is that of
// the start in reverse, and that nothing but the shutdown makes the unit end guests.
func TestGuestsEndBetweenAgentAndLibvirt(t *testing.T) {
	inUnit, service, _ := strings.Cut(shutdownUnit, "[Service]")
	for _, line := range []string{
		"Before=" + unitName, "Wants=virt-guest-shutdown.target",
		"After=network.target libvirtd.service libvirt-guests.service virt-guest-shutdown.target",
	} {
		if !strings.Contains(inUnit, "\n"+line+"\n") {
			t.Errorf("the unit lacks the line %s", line)
		}
	}
	if strings.Contains(inUnit, "PartOf=") || strings.Contains(inUnit, "BindsTo=") || strings.Contains(inUnit, "Requires=") {
		t.Error("the unit is stopped with another one, such as by a restart of the agent, or needs one that a witness lacks")
	}
	for _, line := range []string{"RemainAfterExit=yes", "ExecStop=" + packagedProgram + " agent shutdown-guests"} {
		if !strings.Contains(service, "\n"+line+"\n") {
			t.Errorf("the unit lacks the line %s", line)
		}
	}
	if strings.Count(unit, " "+shutdownUnitName) != 2 {
		t.Error("the agent's unit does not start the unit, or not before itself")
	}
	const byHand = "/usr/local/bin/virtmesh"
	folders := unitFolders{packaged: []string{t.TempDir()}, administrator: t.TempDir()}
	if err := folders.provide(byHand); err != nil {
		t.Fatal(err)
	}
	if runs, err := runsProgram(filepath.Join(folders.administrator, shutdownUnitName), byHand); !runs || err != nil {
		t.Errorf("an installation by hand has no such unit: %v", err)
	}
}
