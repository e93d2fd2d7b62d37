//go:build packages

package packages

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

const packagedProgram = "/usr/bin/virtmesh"

// machine is this machine's root file system under an overlay: what happens on it stays in
// its folder. Each command has a mount namespace of its own, so nothing is left mounted.
type machine struct {
	t      *testing.T
	folder string
}

// systemctl stands for systemd: it notes its arguments, and knows of the agent's unit
// whether it is enabled, from the link that systemctl would make. A unit runs if there is a
// file /running/UNIT.
const systemctl = `#!/bin/sh
echo "$@" >>/systemctl.calls
case "$*" in
*is-enabled*) [ -e /etc/systemd/system/multi-user.target.wants/virtmesh.service ] && echo enabled || { echo disabled; exit 1; } ;;
*is-active*) for unit; do :; done; [ -e "/running/$unit" ] ;;
esac
`

// newMachine returns a machine without virtmesh, on which systemd seems to run.
func newMachine(t *testing.T) machine {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("installing packages needs root")
	}
	m := machine{t: t, folder: t.TempDir()}
	// The temporary directory may be on an overlay, which cannot be the upper layer of another.
	if err := syscall.Mount("tmpfs", m.folder, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(m.folder, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	for _, name := range []string{"upper", "work", "root"} {
		if err := os.Mkdir(filepath.Join(m.folder, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	m.must(`rm -rf /etc/virtmesh /var/lib/virtmesh /etc/systemd/system/virtmesh.service /usr/local/bin/virtmesh /usr/sbin/policy-rc.d
mkdir -p /run/systemd/system /etc/systemd/system/multi-user.target.wants`)
	m.write("/usr/bin/systemctl", systemctl)
	m.write("/usr/bin/networkctl", "#!/bin/sh\necho networkctl \"$@\" >>/systemctl.calls\n")
	// The kernel's settings are not in the overlay.
	m.write("/usr/lib/systemd/systemd-sysctl", "#!/bin/sh\necho \"$@\" >>/sysctl.calls\n")
	return m
}

// run runs a shell script on the machine and returns all that it prints.
func (m machine) run(script string) (string, error) {
	const enter = `set -e
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$1/root"
mount -t proc proc "$1/root/proc"
mount --rbind /dev "$1/root/dev"
exec chroot "$1/root" sh -c "$2"`
	cmd := exec.CommandContext(m.t.Context(), "unshare", "--mount", "sh", "-c", enter, "sh", m.folder, script)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C.UTF-8", "HOME=/root"}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (m machine) must(script string) string {
	m.t.Helper()
	out, err := m.run(script)
	if err != nil {
		m.t.Fatalf("%s: %v\n%s", script, err, out)
	}
	return out
}

// write makes an executable file on the machine, with its folders.
func (m machine) write(path, text string) {
	m.t.Helper()
	m.must(fmt.Sprintf("mkdir -p '%s' && cat >'%s' <<'END'\n%sEND\nchmod 755 '%s'", filepath.Dir(path), path, text, path))
}

func (m machine) has(path string) bool {
	_, err := m.run("test -e '" + path + "' || test -L '" + path + "'")
	return err == nil
}

// calls returns what systemctl was asked to change since the last call.
func (m machine) calls() string {
	m.t.Helper()
	var changes []string
	for line := range strings.Lines(m.must("touch /systemctl.calls; cat /systemctl.calls; rm /systemctl.calls")) {
		if line = strings.TrimSpace(line); line != "" && !strings.Contains(line, "is-enabled") && !strings.Contains(line, "is-active") {
			changes = append(changes, strings.NewReplacer("--system ", "", "--quiet ", "").Replace(line))
		}
	}
	return strings.Join(changes, "; ")
}

// join makes the machine look like a host with a guest's disk, whose agent runs: what 'agent
// init' and the agent leave on it.
func (m machine) join() {
	m.t.Helper()
	m.must(`mkdir -p /etc/virtmesh /var/lib/virtmesh/instances/u /var/lib/virtmesh/pools/local
echo 'stateDir: /var/lib/virtmesh' >/etc/virtmesh/agent.yaml
echo data >/var/lib/virtmesh/instances/u/root.qcow2
ln -s /usr/lib/systemd/system/virtmesh.service /etc/systemd/system/multi-user.target.wants/virtmesh.service
mkdir -p /running; touch /running/virtmesh.service`)
}

// install gives the machine a package file and installs it.
func (m machine) install(deb string) string {
	m.t.Helper()
	m.must("cp '" + deb + "' /new.deb")
	return m.must("dpkg --force-unsafe-io --install /new.deb")
}

// built returns the package in dist.
func built(t *testing.T) string {
	t.Helper()
	found, err := filepath.Glob("../../dist/virtmesh_*.deb")
	if err != nil || len(found) != 1 {
		t.Fatalf("dist has the packages %v (%v): run 'make packages-deb'", found, err)
	}
	deb, err := filepath.Abs(found[0])
	if err != nil {
		t.Fatal(err)
	}
	return deb
}

// small returns a package as the built one, of the given version and without the program,
// whose size costs seconds in each installation.
func small(t *testing.T, version string) string {
	t.Helper()
	folder, deb := t.TempDir(), filepath.Join(t.TempDir(), "small.deb")
	run(t, "dpkg-deb", "--raw-extract", built(t), folder)
	if err := os.WriteFile(filepath.Join(folder, packagedProgram), []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	run(t, "sed", "-i", "s/^Version:.*/Version: "+version+"/", filepath.Join(folder, "DEBIAN/control"))
	run(t, "dpkg-deb", "-Znone", "--root-owner-group", "--build", folder, deb)
	return deb
}

func run(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), args[0], args[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}
