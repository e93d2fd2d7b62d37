package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/google/uuid"

	"virtmesh/agent/host/hypervisor/privatelibvirtd"
)

// RunInit is the first process of a lab host (PID 1 in its namespace). It
// reads the host's configuration from in, sets the host up and then only
// reaps: QEMU and libvirtd leave orphans that end up here. The services run
// in a child, so that reaping does not take exit codes away from them.
func RunInit(in io.Reader) error {
	if os.Getpid() != 1 {
		return errors.New("'lab host-init' is started by 'lab up' and 'lab start', not by hand")
	}
	config, err := io.ReadAll(in)
	if err != nil {
		return fmt.Errorf("read the host's configuration: %w", err)
	}
	var c hostConfig
	if err := json.Unmarshal(config, &c); err != nil {
		return fmt.Errorf("read the host's configuration: %w", err)
	}
	if err := c.mount(); err != nil {
		return err
	}
	if err := c.configureNetwork(context.Background()); err != nil {
		return err
	}
	if err := os.WriteFile(hostRecord, config, 0o600); err != nil {
		return fmt.Errorf("store the host's configuration: %w", err)
	}
	services, err := os.StartProcess(c.Executable, []string{"virtmesh", "lab", "host-services"}, &os.ProcAttr{
		Dir: "/", Env: os.Environ(), Files: []*os.File{nil, os.Stdout, os.Stderr},
	})
	if err != nil {
		return fmt.Errorf("start the host's services: %w", err)
	}
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil || pid == services.Pid {
			return fmt.Errorf("the host's services ended (exit status %d)", status.ExitStatus())
		}
	}
}

// mount gives the host private versions of the directories that libvirt and
// the agent use, and a /proc and /sys of its own namespaces.
func (c hostConfig) mount() error {
	if err := syscall.Sethostname([]byte(c.Host.Name)); err != nil {
		return fmt.Errorf("set the host's name: %w", err)
	}
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := syscall.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	if err := syscall.Mount("sysfs", "/sys", "sysfs", 0, ""); err != nil {
		return fmt.Errorf("mount /sys: %w", err)
	}
	if err := c.mountHostsFile(); err != nil {
		return err
	}
	if err := c.hideAppArmor(); err != nil {
		return err
	}
	for name, target := range privateMounts {
		if err := bindMount(filepath.Join(c.Dir, name), target); err != nil {
			return err
		}
	}
	if err := privatelibvirtd.Prepare(c.libvirt(nil)); err != nil {
		return err
	}
	script := privatelibvirtd.MountScript(c.libvirt(nil))
	if out, err := exec.Command("sh", "-c", script).CombinedOutput(); err != nil {
		return fmt.Errorf("mount libvirt's directories: %w: %s", err, out)
	}
	// A directory that every host mounts, as an NFS share would be.
	return bindMount(c.SharedDir, SharedMount)
}

// libvirt describes the host's own libvirtd. Its identity follows from the
// host's directory, so it is the same after every start.
func (c hostConfig) libvirt(log *slog.Logger) privatelibvirtd.Config {
	config := privatelibvirtd.DefaultConfig()
	config.Dir = filepath.Join(c.Dir, "libvirt")
	config.HostUUID = uuid.NewSHA1(uuid.NameSpaceOID, []byte(c.Dir)).String()
	config.Logger = log
	return config
}

// SharedMount is where a directory shared by all lab hosts appears in each.
const SharedMount = "/var/lib/virtmesh/shared"

func bindMount(source, target string) error {
	if err := os.MkdirAll(target, 0o755); err != nil {
		return fmt.Errorf("make mount point %s: %w", target, err)
	}
	if err := syscall.Mount(source, target, "", syscall.MS_BIND|syscall.MS_REC, ""); err != nil {
		return fmt.Errorf("mount %s on %s: %w", source, target, err)
	}
	return nil
}

// mountHostsFile lets the host find its own name without DNS: libvirt looks it
// up at every start of a guest, and a name server that cannot be reached would
// cost it half a minute each time.
func (c hostConfig) mountHostsFile() error {
	return c.mountFile("hosts", "/etc/hosts", fmt.Sprintf("127.0.0.1 localhost\n::1 localhost\n%s %s\n", c.Host.Address, c.Host.Name))
}

// appArmorSwitch is where a kernel with AppArmor says whether it is on.
const appArmorSwitch = "/sys/module/apparmor/parameters/enabled"

// hideAppArmor makes the host one whose kernel has no AppArmor, whatever this machine's has.
// Profiles are the machine's and know nothing of a lab's paths, so the libvirtd of a lab
// host uses none; where it could, the agent would refuse to start guests.
func (c hostConfig) hideAppArmor() error {
	if _, err := os.Stat(appArmorSwitch); err != nil {
		return nil // this machine's kernel has none
	}
	return c.mountFile("apparmor", appArmorSwitch, "N\n")
}

// mountFile gives the host a file of its own, of that name in its directory, in the place of
// the machine's at target.
func (c hostConfig) mountFile(name, target, text string) error {
	path := filepath.Join(c.Dir, name)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		return fmt.Errorf("write the host's %s: %w", target, err)
	}
	if err := syscall.Mount(path, target, "", syscall.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount %s: %w", target, err)
	}
	return nil
}

func (c hostConfig) configureNetwork(ctx context.Context) error {
	for _, args := range [][]string{
		{"link", "set", "lo", "up"},
		{"address", "replace", c.Host.Address + "/24", "dev", "eth0"},
		{"link", "set", "eth0", "up"},
		{"link", "set", guestUplink, "up"},
		{"route", "replace", "default", "via", c.Gateway},
	} {
		if err := ip(ctx, args...); err != nil {
			return err
		}
	}
	return nil
}

// RunServices starts what a real host's service manager would: libvirt's
// daemons, and the agent as soon as the host belongs to a mesh. It returns
// when ctx ends.
func RunServices(ctx context.Context, log *slog.Logger) error {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	data, err := os.ReadFile(hostRecord)
	if err != nil {
		return fmt.Errorf("read the host's configuration: %w", err)
	}
	var c hostConfig
	if err := json.Unmarshal(data, &c); err != nil {
		return fmt.Errorf("read the host's configuration: %w", err)
	}
	if _, err := privatelibvirtd.Start(ctx, c.libvirt(log)); err != nil {
		return err
	}
	go func() {
		if err := serveRegistryProxy(ctx, c); err != nil {
			log.Error("the proxy to the lab's registry ended", "err", err)
		}
	}()
	return superviseAgent(ctx, c, log)
}

// superviseAgent keeps 'virtmesh agent run' alive, as the systemd unit does on
// a real host (Restart=always, RestartSec=1).
func superviseAgent(ctx context.Context, c hostConfig, log *slog.Logger) error {
	logFile, err := os.OpenFile("/var/log/virtmesh/agent.log", os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return fmt.Errorf("open the agent's log: %w", err)
	}
	defer logFile.Close()
	for ctx.Err() == nil {
		if _, err := os.Stat(agentEnabled); err == nil {
			cmd := exec.CommandContext(ctx, c.Executable, "agent", "run")
			cmd.Stdout, cmd.Stderr = logFile, logFile
			cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
			log.Info("agent starts")
			log.Info("agent ended", "err", cmd.Run())
		}
		waitSecond(ctx)
	}
	return nil
}

// agentEnabled exists once the host joined a mesh, as an enabled unit would.
const agentEnabled = "/etc/virtmesh/agent.yaml"
