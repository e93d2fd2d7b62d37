package privatelibvirtd

import (
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// maxSocketPath is what a sockaddr_un holds, less the final NUL.
const maxSocketPath = 107

// Config describes a private libvirt: its directory, and the user that runs its guests.
type Config struct {
	// Dir holds everything: etc, run, lib, cache and log. It is created, and kept
	// by Stop, so that a later Start finds the same domains. Keep it short: UNIX
	// socket paths are limited to 107 bytes.
	Dir string
	// HostUUID identifies this libvirt to others. Two libvirts that migrate to
	// each other must differ.
	HostUUID string
	// User and Group run the guests' processes.
	User, Group string
	// Isolate makes Start create the mounts itself, see the package comment.
	Isolate bool
	// Cgroups lets libvirt place guests in cgroups. Several libvirts on one machine
	// share the cgroup tree, where domains of the same name and id collide, so it is
	// for callers that run each libvirt in a cgroup namespace of its own.
	Cgroups bool
	// CacheDir holds libvirt's cache of the capabilities of QEMU binaries. To fill it
	// takes several seconds of CPU. Several libvirts may share one. Empty means a
	// directory below Dir.
	CacheDir string
	// Libvirtd and Virtlogd are the daemons' binaries.
	Libvirtd, Virtlogd string
	// StartTimeout bounds the wait for each daemon's socket.
	StartTimeout time.Duration
	// LogLevel is libvirt's: 1 debug, 2 information, 3 warnings, 4 errors.
	LogLevel int
	// Logger logs starts and stops of the daemons; nil discards them.
	Logger *slog.Logger
}

// DefaultConfig returns the settings for Debian's packages, with Dir and HostUUID
// left for the caller.
func DefaultConfig() Config {
	return Config{
		User:         "libvirt-qemu",
		Group:        "kvm",
		Libvirtd:     "/usr/sbin/libvirtd",
		Virtlogd:     "/usr/sbin/virtlogd",
		StartTimeout: 30 * time.Second,
		LogLevel:     3,
	}
}

var (
	uuidPattern = regexp.MustCompile(`^[0-9a-fA-F]{8}-([0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}$`)
	userPattern = regexp.MustCompile(`^\+?[a-zA-Z0-9_.-]+$`)
)

// Validate returns an error that names every invalid field of c.
func (c Config) Validate() error {
	var errs []error
	if !filepath.IsAbs(c.Dir) || strings.ContainsAny(c.Dir, "'\"\n") {
		errs = append(errs, fmt.Errorf("Dir %q must be an absolute path without quotes", c.Dir))
	}
	if c.CacheDir != "" && (!filepath.IsAbs(c.CacheDir) || strings.ContainsAny(c.CacheDir, "'\"\n")) {
		errs = append(errs, fmt.Errorf("CacheDir %q must be an absolute path without quotes", c.CacheDir))
	}
	if n := len(c.socket()); n > maxSocketPath {
		errs = append(errs, fmt.Errorf("Dir %q is too long: its socket path has %d bytes, a UNIX socket allows %d", c.Dir, n, maxSocketPath))
	}
	if !uuidPattern.MatchString(c.HostUUID) {
		errs = append(errs, fmt.Errorf("HostUUID %q is not a UUID", c.HostUUID))
	}
	for _, v := range []struct{ field, value string }{{"User", c.User}, {"Group", c.Group}} {
		if !userPattern.MatchString(v.value) {
			errs = append(errs, fmt.Errorf("%s %q is not a user or group name", v.field, v.value))
		}
	}
	if c.Libvirtd == "" || c.Virtlogd == "" {
		errs = append(errs, errors.New("Libvirtd and Virtlogd must name the daemons' binaries"))
	}
	if c.StartTimeout <= 0 {
		errs = append(errs, errors.New("StartTimeout must be positive"))
	}
	if c.LogLevel < 1 || c.LogLevel > 4 {
		errs = append(errs, fmt.Errorf("LogLevel %d must be 1 to 4", c.LogLevel))
	}
	return errors.Join(errs...)
}

func (c Config) socket() string { return filepath.Join(c.Dir, "run", "libvirt-sock") }

// Bind is a file or directory of a private libvirt and the compiled-in path it must
// be visible at.
type Bind struct {
	Source, Target string
}

// Binds lists the bind mounts the libvirt of c needs. Prepare creates the sources.
func Binds(c Config) []Bind {
	cache := c.CacheDir
	if cache == "" {
		cache = filepath.Join(c.Dir, "cache")
	}
	return []Bind{
		{filepath.Join(c.Dir, "etc"), "/etc/libvirt"},
		{filepath.Join(c.Dir, "run"), "/run/libvirt"},
		{filepath.Join(c.Dir, "lib"), "/var/lib/libvirt"},
		{cache, "/var/cache/libvirt"},
		{filepath.Join(c.Dir, "log"), "/var/log/libvirt"},
	}
}

// kvmNode is a copy of /dev/kvm that the guests' group may open. Without udev, nothing
// sets the group of the original. libvirt then finds KVM when it probes QEMU as root,
// does not find it when it checks the result as the guests' user, and so probes QEMU
// again at every call, for seconds.
func kvmNode(c Config) Bind { return Bind{filepath.Join(c.Dir, "kvm"), "/dev/kvm"} }

// MountScript returns shell commands that make the Binds of c in the mount namespace
// they are run in. Call Prepare before.
func MountScript(c Config) string {
	var b strings.Builder
	b.WriteString("set -e\n")
	for _, m := range Binds(c) {
		fmt.Fprintf(&b, "mkdir -p %s\nmount --bind '%s' %s\n", m.Target, m.Source, m.Target)
	}
	kvm := kvmNode(c)
	fmt.Fprintf(&b, "if [ -c '%s' ] && [ -c %s ]; then mount --bind '%s' %s; fi\n", kvm.Source, kvm.Target, kvm.Source, kvm.Target)
	return b.String()
}
