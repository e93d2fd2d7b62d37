package privatelibvirtd

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// Prepare creates the directories and configuration files of c. Start calls it;
// a caller that makes the mounts itself calls it first. It may be called again.
func Prepare(c Config) error {
	if err := c.Validate(); err != nil {
		return fmt.Errorf("private libvirt: %w", err)
	}
	for _, b := range Binds(c) {
		if err := os.MkdirAll(b.Source, 0o755); err != nil {
			return fmt.Errorf("private libvirt: %w", err)
		}
	}
	// Distributions close this folder to others.
	if err := os.Mkdir(filepath.Join(c.Dir, "lib", "qemu"), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("private libvirt: %w", err)
	}
	for name, text := range map[string]string{
		"libvirtd.conf": libvirtdConf(c),
		"qemu.conf":     qemuConf(c),
		"virtlogd.conf": virtlogdConf(c),
	} {
		if err := os.WriteFile(filepath.Join(c.Dir, "etc", name), []byte(text), 0o644); err != nil {
			return fmt.Errorf("private libvirt: %w", err)
		}
	}
	if err := makeKVMNode(c); err != nil {
		return fmt.Errorf("private libvirt: %w", err)
	}
	return nil
}

// makeKVMNode makes the copy of /dev/kvm described at kvmNode, if there is a
// /dev/kvm.
func makeKVMNode(c Config) error {
	node := kvmNode(c)
	var device syscall.Stat_t
	if err := syscall.Stat(node.Target, &device); err != nil || device.Mode&syscall.S_IFMT != syscall.S_IFCHR {
		return nil
	}
	group, err := user.LookupGroup(c.Group)
	if err != nil {
		return err
	}
	gid, err := strconv.Atoi(group.Gid)
	if err != nil {
		return fmt.Errorf("group %s: %w", c.Group, err)
	}
	if err := syscall.Mknod(node.Source, syscall.S_IFCHR|0o660, int(device.Rdev)); err != nil && !errors.Is(err, syscall.EEXIST) {
		return fmt.Errorf("make %s: %w", node.Source, err)
	}
	if err := os.Chown(node.Source, 0, gid); err != nil {
		return err
	}
	return os.Chmod(node.Source, 0o660)
}

func libvirtdConf(c Config) string {
	return lines(
		fmt.Sprintf("host_uuid = %q", c.HostUUID),
		// Nothing listens on the network, and root alone may open the sockets.
		"listen_tls = 0",
		"listen_tcp = 0",
		`auth_unix_ro = "none"`,
		`auth_unix_rw = "none"`,
		`unix_sock_ro_perms = "0700"`,
		`unix_sock_rw_perms = "0700"`,
		`unix_sock_admin_perms = "0700"`,
		"max_clients = 500",
		"max_anonymous_clients = 50",
		// max_workers and max_client_requests stay at libvirt's defaults, which real
		// hosts have: what works with a private libvirt must work there.
		fmt.Sprintf("log_level = %d", c.LogLevel),
		fmt.Sprintf(`log_outputs = "%d:file:/var/log/libvirt/libvirtd.log"`, c.LogLevel),
	)
}

func qemuConf(c Config) string {
	out := []string{
		fmt.Sprintf("user = %q", c.User),
		fmt.Sprintf("group = %q", c.Group),
		// libvirt gives a disk to the guest's user at start and back to root at the
		// end. It must not remember owners in extended attributes: a second libvirt
		// on the machine would refuse a disk the first has marked, so no migration
		// between two of them would work.
		"dynamic_ownership = 1",
		"remember_owner = 0",
		// AppArmor's profiles allow only the paths of the packages.
		`security_driver = "none"`,
		"seccomp_sandbox = 1",
		`stdio_handler = "logd"`,
		"max_core = 0",
	}
	if !c.Cgroups {
		out = append(out, "cgroup_controllers = [ ]")
	}
	return lines(out...)
}

func virtlogdConf(c Config) string {
	return lines(
		fmt.Sprintf("log_level = %d", c.LogLevel),
		fmt.Sprintf(`log_outputs = "%d:file:/var/log/libvirt/virtlogd.log"`, c.LogLevel),
		// A guest that floods its console fills at most 8 MiB.
		"max_size = 2097152",
		"max_backups = 3",
	)
}

func lines(s ...string) string { return strings.Join(s, "\n") + "\n" }
