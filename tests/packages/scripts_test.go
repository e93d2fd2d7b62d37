//go:build packages

package packages

import (
	"path/filepath"
	"strings"
	"testing"
)

const (
	disk   = "/var/lib/virtmesh/instances/u/root.qcow2"
	config = "/etc/virtmesh/agent.yaml"
	wanted = "/etc/systemd/system/multi-user.target.wants/virtmesh.service"
)

// TestInstallation checks that the package can be installed with what docs/install.md lists
// besides, and that no agent is started on a machine that belongs to no mesh.
func TestInstallation(t *testing.T) {
	m := newMachine(t)
	told := m.install(built(t))
	if got := m.calls(); strings.Contains(got, "start") || strings.Contains(got, "enable") {
		t.Errorf("the installation asked systemd for: %s", got)
	}
	if !strings.Contains(told, "virtmesh agent init") {
		t.Errorf("the installation does not say what comes next:\n%s", told)
	}
	m.must("getent passwd virtmesh-guests && getent group virtmesh-guests")
	if got := m.must("virtmesh --version"); !strings.Contains(got, "virtmesh version") {
		t.Errorf("the installed program prints %q", got)
	}
	if got := m.must("stat -c %a /var/lib/virtmesh"); got != "711\n" {
		t.Errorf("QEMU's user cannot pass /var/lib/virtmesh: its mode is %s", got)
	}
	m.must("! grep -h . /sysctl.calls | grep -v -- --prefix=/") // only the keys of the package
}

// TestUpgradeRestartsTheAgent checks that an upgrade, and the return to an older version,
// restart an agent that runs, never stop it for longer, and start none that was stopped. On the
// way back an administrator hears how guests keep their network.
func TestUpgradeRestartsTheAgent(t *testing.T) {
	m := newMachine(t)
	m.install(small(t, "1"))
	m.join()
	for _, version := range []string{"2", "0"} {
		m.calls()
		told := m.install(small(t, version))
		if older := version == "0"; strings.Contains(told, "tc qdisc del dev virtmesh0 clsact") != older || strings.Contains(told, "take the setting that it names out") != older {
			t.Errorf("what to do if the older version does not get on with the host is not said with it alone; %s says:\n%s", version, told)
		}
		if got, want := m.calls(), "daemon-reload; try-restart virtmesh.service"; !strings.HasSuffix(got, want) || strings.Contains(got, "stop") {
			t.Errorf("the installation of %s asked systemd for %q, and not for %q", version, got, want)
		}
		if !m.has(disk) || !m.has(config) {
			t.Errorf("the installation of %s removed the disk of a guest or the configuration", version)
		}
	}
}

// TestNetworkManagersReadTheirFiles checks that what configures the host's network hears of
// the package's files when they appear, and is left alone by an upgrade.
func TestNetworkManagersReadTheirFiles(t *testing.T) {
	m := newMachine(t)
	m.must("mkdir /running; touch /running/systemd-networkd.service /running/NetworkManager.service")
	m.install(small(t, "1"))
	if got, want := m.calls(), "daemon-reload; networkctl reload; reload NetworkManager.service"; !strings.HasSuffix(got, want) {
		t.Errorf("the installation asked systemd for %q, and not for %q", got, want)
	}
	m.install(small(t, "2"))
	if got := m.calls(); strings.Contains(got, "networkctl") || strings.Contains(got, "NetworkManager") {
		t.Errorf("the upgrade asked systemd for %q", got)
	}
}

// TestRemoval checks that a removal stops the agent, leaves guests and says so, and that the
// agent runs again after the package is installed again.
func TestRemoval(t *testing.T) {
	m := newMachine(t)
	deb := small(t, "1")
	m.install(deb)
	m.join()
	m.calls()
	told := m.must("dpkg --remove virtmesh")
	if got, want := m.calls(), "stop virtmesh.service; daemon-reload"; got != want {
		t.Errorf("the removal asked systemd for %q, and not for %q", got, want)
	}
	if !strings.Contains(told, "guests go on") || !strings.Contains(told, "still a member") {
		t.Errorf("the removal does not say what becomes of guests and of the host:\n%s", told)
	}
	if !m.has(disk) || !m.has(config) || !m.has(wanted) {
		t.Error("the removal removed a disk, the configuration, or that the agent is started")
	}
	m.must("rm -r /running")
	m.install(deb)
	if got, want := m.calls(), "daemon-reload; start virtmesh.service"; got != want {
		t.Errorf("the new installation asked systemd for %q, and not for %q", got, want)
	}
}

// TestGuestServicesOutliveTheRemoval checks that guest services, which nothing stops, keep a
// unit without the package until they end or the package is back: systemd takes no sign of
// life from a service without a unit, and ends it when its watchdog is due.
func TestGuestServicesOutliveTheRemoval(t *testing.T) {
	const unit = "/run/systemd/system/virtmesh-guest-services.service"
	m := newMachine(t)
	deb := small(t, "1")
	m.install(deb)
	m.join()
	m.must("touch /running/virtmesh-guest-services.service && dpkg --remove virtmesh")
	kept := m.must("cat " + unit)
	for _, line := range []string{"Type=notify", "Restart=no", "WatchdogSec=30"} {
		if !strings.Contains(kept, "\n"+line+"\n") {
			t.Errorf("the unit that is left has no line %s:\n%s", line, kept)
		}
	}
	m.install(deb)
	if m.has(unit) {
		t.Error("the unit that the removal left hides the package's")
	}
	m.must("rm /running/virtmesh-guest-services.service && dpkg --remove virtmesh")
	if m.has(unit) {
		t.Error("the removal left a unit of what did not run")
	}
}

// TestPurge checks that a purge removes the configuration and no disk, and says what stays.
func TestPurge(t *testing.T) {
	m := newMachine(t)
	m.install(small(t, "1"))
	m.join()
	told := m.must("dpkg --purge virtmesh")
	if m.has("/etc/virtmesh") || m.has(wanted) {
		t.Error("the purge left the configuration, or a link to a unit that is gone")
	}
	if !m.has(disk) {
		t.Error("the purge removed the disk of a guest")
	}
	if m.has("/var/lib/virtmesh/pools") {
		t.Error("the purge left empty folders")
	}
	for _, part := range []string{"/var/lib/virtmesh stays", "rm -r /var/lib/virtmesh", "keys"} {
		if !strings.Contains(told, part) {
			t.Errorf("the purge does not say %q:\n%s", part, told)
		}
	}
}

// TestPurgeOfAMachineWithoutMesh checks that nothing at all stays where nothing was made.
func TestPurgeOfAMachineWithoutMesh(t *testing.T) {
	m := newMachine(t)
	m.install(small(t, "1"))
	m.must("dpkg --purge virtmesh")
	clone, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	left := m.must("find / -xdev \\( -path /proc -o -path /dev -o -path /tmp -o -path /root -o -path /home -o -path '" + clone + "' \\) -prune -o " +
		"-iname '*virtmesh*' -cnewer /usr/bin/systemctl -print")
	if left != "" {
		t.Errorf("the purge left:\n%s", left)
	}
}

// TestPurgeWithAnotherStateDirectory checks that a purge deletes nothing in a directory that
// the package did not make.
func TestPurgeWithAnotherStateDirectory(t *testing.T) {
	m := newMachine(t)
	m.install(small(t, "1"))
	m.join()
	m.must("mkdir -p /srv/mesh/empty && sed -i s,/var/lib/virtmesh,/srv/mesh, " + config)
	if told := m.must("dpkg --purge virtmesh"); !strings.Contains(told, "/srv/mesh stays") {
		t.Errorf("the purge does not say that the state directory stays:\n%s", told)
	}
	if !m.has("/srv/mesh/empty") || !m.has(disk) {
		t.Error("the purge deleted something in a directory that is not the package's")
	}
}

// TestInstallationByHandIsNamed checks that an administrator hears of a unit and a program
// that hide the package's.
func TestInstallationByHandIsNamed(t *testing.T) {
	m := newMachine(t)
	m.write("/etc/systemd/system/virtmesh.service", "[Service]\nExecStart=/usr/local/bin/virtmesh agent run\n")
	m.write("/usr/local/bin/virtmesh", "#!/bin/sh\n")
	told := m.install(small(t, "1"))
	for _, part := range []string{"rm -f /etc/systemd/system/virtmesh.service", "/etc/systemd/system/virtmesh-shutdown.service", "/usr/local/bin/virtmesh hides"} {
		if !strings.Contains(told, part) {
			t.Errorf("the installation does not say %q:\n%s", part, told)
		}
	}
}

// TestInstallationStartsNothing checks the two machines on which no package may start a
// service: one that forbids it, and one on which systemd does not run, such as an image.
func TestInstallationStartsNothing(t *testing.T) {
	deb := small(t, "1")
	for _, test := range []struct{ name, prepare string }{
		{"policy", "printf '#!/bin/sh\\nexit 101\\n' >/usr/sbin/policy-rc.d; chmod 755 /usr/sbin/policy-rc.d"},
		{"no systemd", "rm -r /run/systemd/system"},
	} {
		t.Run(test.name, func(t *testing.T) {
			m := newMachine(t)
			m.join()
			m.must(test.prepare)
			m.install(deb)
			if got := m.calls(); got != "" && got != "daemon-reload" {
				t.Errorf("the installation asked systemd for: %s", got)
			}
		})
	}
}

// TestWitnessNeedsNoLibvirt checks that the package can be installed on a machine without
// libvirt and QEMU, and that doctor finds nothing of what guests need missing on a witness.
func TestWitnessNeedsNoLibvirt(t *testing.T) {
	m := newMachine(t)
	m.must("dpkg --force-unsafe-io --force-depends --purge libvirt0 libvirt-clients libvirt-daemon-system qemu-utils && ! command -v virsh qemu-img")
	told := m.install(built(t)) // dpkg refuses it if something that it depends on is missing
	if !strings.Contains(told, "virtmesh agent join") {
		t.Errorf("the installation does not say what comes next:\n%s", told)
	}
	for _, unit := range []string{"virtmesh.service", "virtmesh-shutdown.service", "virtmesh-guest-services.service"} {
		if told, err := m.run("systemd-analyze verify --man=no /usr/lib/systemd/system/" + unit); err != nil || strings.Contains(told, unit) {
			t.Errorf("systemd cannot start %s without libvirt: %v\n%s", unit, err, told)
		}
	}
	// What else is on this machine, such as its clock and who has which port, is not the package's.
	worker, _ := m.run("virtmesh doctor")
	witness, _ := m.run("virtmesh doctor --role witness")
	for _, needed := range []string{"libvirt ", "qemu-img ", "nft "} {
		if !strings.Contains(worker, "\n"+needed) || strings.Contains(witness, "\n"+needed) {
			t.Errorf("doctor says of a worker:\n%s\nand of a witness:\n%s", worker, witness)
		}
	}
	if !strings.Contains(witness, "mesh port") {
		t.Errorf("doctor does not check a witness:\n%s", witness)
	}
}

// TestWorkerGetsLibvirt checks that apt, unless it is told otherwise, installs what guests
// need, and refuses to keep a libvirt beside the package that is too old for it.
func TestWorkerGetsLibvirt(t *testing.T) {
	for field, packages := range map[string]string{
		"Recommends": "libvirt0 libvirt-daemon-system libvirt-clients qemu-system-x86 qemu-utils apparmor",
		"Breaks":     "libvirt0 qemu-system-x86",
	} {
		has := " " + strings.ReplaceAll(run(t, "dpkg-deb", "--field", built(t), field), ",", "") + " "
		for name := range strings.FieldsSeq(packages) {
			if !strings.Contains(strings.ReplaceAll(has, "\n", " "), " "+name+" ") {
				t.Errorf("%s of the package has no %s: %s", field, name, has)
			}
		}
	}
}
