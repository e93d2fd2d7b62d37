package lab

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// namespaces are hosts that share this machine's kernel.
type namespaces struct{ *Lab }

var _ chassis = namespaces{}

// hostRecord is where a host keeps its configuration. It is written when the
// host has been set up.
const hostRecord = "/run/virtmesh/host.json"

// hostConfig is what the machine tells a host's first process.
type hostConfig struct {
	Host           Host   `json:"host"`
	Dir            string `json:"dir"`
	SharedDir      string `json:"sharedDir"`
	Gateway        string `json:"gateway"`
	RegistrySocket string `json:"registrySocket"`
	RegistryPort   int    `json:"registryPort"`
	Executable     string `json:"executable"`
}

// privateMounts are the machine's directories of which each host has a copy of its
// own. The key is the name of the copy in the host's directory.
var privateMounts = map[string]string{
	"lib":        "/var/lib/virtmesh",
	"etc":        "/etc/virtmesh",
	"run":        "/run/virtmesh",
	"run-guests": "/run/virtmesh-guests",
	"log":        "/var/log/virtmesh",
}

// volatile are the directories that a real host keeps in memory, so that they
// are empty after power comes back.
var volatile = []string{"run", "run-guests", "libvirt/run"}

// boot implements chassis.
func (l namespaces) boot(ctx context.Context, h Host, _ func(string, ...any)) error {
	for _, name := range volatile {
		if err := os.RemoveAll(filepath.Join(l.hostDir(h), name)); err != nil {
			return fmt.Errorf("clear %s of %s: %w", name, h.Name, err)
		}
	}
	for name := range privateMounts {
		// Closed, as a strict umask leaves directories: what must be open to others is
		// for whoever uses the directory to open, here as on a real host.
		if err := os.MkdirAll(filepath.Join(l.hostDir(h), name), 0o700); err != nil {
			return fmt.Errorf("make the directories of %s: %w", h.Name, err)
		}
	}
	if err := l.spawnInit(ctx, h); err != nil {
		return err
	}
	return l.waitSetUp(ctx, h)
}

// waitSetUp returns when the host has its own mounts and name. A command that runs in
// the host before that would see, and change, this machine's files.
func (l namespaces) waitSetUp(ctx context.Context, h Host) error {
	return poll(ctx, setUpTimeout, h.Name+" to be set up", func(context.Context) error {
		pid, err := l.Running(h)
		if err != nil {
			return err
		}
		if pid == 0 {
			return fmt.Errorf("it has ended; see %s", filepath.Join(l.LogDir(h), "init.log"))
		}
		_, err = os.Stat(filepath.Join(l.hostDir(h), "run", filepath.Base(hostRecord)))
		return err
	})
}

// spawnInit starts the host's first process in new namespaces, plugs the
// network cable into it and hands it its configuration.
func (l namespaces) spawnInit(ctx context.Context, h Host) error {
	logFile, err := os.OpenFile(filepath.Join(l.LogDir(h), "init.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return fmt.Errorf("open the log of %s: %w", h.Name, err)
	}
	defer logFile.Close()
	cmd := exec.Command(l.executable, "lab", "host-init")
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = logFile, logFile
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setsid: true,
		Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID |
			syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC,
	}
	config, err := cmd.StdinPipe()
	if err != nil {
		return fmt.Errorf("start %s: %w", h.Name, err)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", h.Name, err)
	}
	pid := cmd.Process.Pid
	// Nobody waits for the host in this process: it outlives the command.
	defer cmd.Process.Release()
	if err := l.connectHost(ctx, h, pid, config); err != nil {
		_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended by itself
		return fmt.Errorf("start %s: %w", h.Name, err)
	}
	return nil
}

func (l namespaces) connectHost(ctx context.Context, h Host, pid int, config interface {
	Write([]byte) (int, error)
	Close() error
}) error {
	defer config.Close()
	if err := recordProcess(l.initRecord(h), pid); err != nil {
		return err
	}
	if err := l.plugCables(ctx, h, pid); err != nil {
		return err
	}
	return json.NewEncoder(config).Encode(hostConfig{
		Host: h, Dir: l.hostDir(h), SharedDir: l.sharedDir(), Gateway: l.gateway(),
		RegistrySocket: l.registrySocket(), RegistryPort: l.state.RegistryPort,
		Executable: l.executable,
	})
}

// command implements chassis.
func (l namespaces) command(ctx context.Context, _ Host, pid int, argv []string) *exec.Cmd {
	args := append([]string{"--target", fmt.Sprint(pid), "--mount", "--uts", "--ipc", "--net", "--pid", "--"}, argv...)
	cmd := exec.CommandContext(ctx, "nsenter", args...)
	cmd.Env = hostEnvironment(os.Environ(), l.executable)
	return cmd
}

// hostEnvironment returns the environment of a command in a host, made from the user's. In
// the host 'virtmesh' is the program of the lab, wherever that lies. The user's KUBECONFIG,
// often of a lab that is gone, does not mean the host's.
func hostEnvironment(user []string, executable string) []string {
	path := filepath.Dir(executable)
	for _, setting := range user {
		if value, ok := strings.CutPrefix(setting, "PATH="); ok && value != "" {
			path = filepath.Dir(executable) + string(os.PathListSeparator) + value
		}
	}
	return append(slices.Clone(user), "PATH="+path, "KUBECONFIG=")
}

// install implements chassis: the hosts see this machine's files.
func (l namespaces) install(context.Context, Host, string, func(string, ...any)) error { return nil }

// program implements chassis.
func (l namespaces) program() string { return l.executable }

// enrolFlags implements chassis: besides its own directory for volumes a host has one
// that all hosts share, a bridge for guests, and the lab's registry on its loopback.
func (l namespaces) enrolFlags(h Host) []string {
	return []string{
		"--advertise", h.Address, "--pool", "shared=" + SharedMount + ",shared", "--bridge", "br1=" + guestUplink,
		"--insecure-registry", l.Registry(),
	}
}
