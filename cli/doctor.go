package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"

	"virtmesh/agent/host"
	"virtmesh/agent/host/hypervisor/kvmprobe"
	"virtmesh/agent/membership"
	"virtmesh/storage/bounded"
)

// finding is the outcome of one check.
type finding struct {
	Check  string `json:"check"`
	Result string `json:"result"`
	Detail string `json:"detail"`
	// Fix says what to do; empty when there is nothing to do.
	Fix string `json:"fix,omitempty"`
}

// Results of a check. A warning does not keep a host from joining.
const (
	passed  = "ok"
	warning = "warning"
	failed  = "failed"
)

func doctorCommand() *cli.Command {
	return &cli.Command{
		Name: "doctor", Usage: "check whether this machine can be a host",
		Description: "Exits with status 1 when a check failed.",
		Flags:       []cli.Flag{outputFlag(), configFlag()},
		Action:      doctor,
	}
}

func doctor(c *cli.Context) error {
	checks := []func(context.Context) finding{
		checkRoot, checkKVM, checkProgram("qemu-system-x86_64", "qemu-system-x86"), checkProgram("qemu-img", "qemu-utils"), checkProgram("nft", "nftables"),
		optional(checkProgram("swtpm", "swtpm")), optional(checkProgram("swtpm_setup", "swtpm-tools")), optional(checkProgram("ip", "iproute2")), checkFirmware,
		checkLibvirt, checkKernelFeatures, checkDisk(c.String("config")), checkPaths(c.String("config")), checkPools(c.String("config")), checkClock, checkNeighbours,
	}
	checks = append(checks, portChecks(c.String("config"))...)
	findings := make([]finding, 0, len(checks))
	bad := false
	for _, check := range checks {
		f := check(c.Context)
		findings = append(findings, f)
		bad = bad || f.Result == failed
	}
	printed, err := printValue(c, findings)
	if !printed {
		err = printFindings(c, findings)
	}
	if err == nil && bad {
		return exitError{code: 1}
	}
	return err
}

func printFindings(c *cli.Context, findings []finding) error {
	rows := make([][]string, 0, len(findings))
	for _, f := range findings {
		// A program's complaint may have many lines; the table shows the first.
		detail, _, _ := strings.Cut(f.Detail, "\n")
		rows = append(rows, []string{f.Check, f.Result, detail})
	}
	if err := printColumns(c.App.Writer, []string{"CHECK", "RESULT", "DETAIL"}, rows); err != nil {
		return err
	}
	for _, f := range findings {
		if f.Fix != "" {
			fmt.Fprintf(c.App.Writer, "%s: %s\n", f.Check, f.Fix)
		}
	}
	return nil
}

func checkRoot(context.Context) finding {
	if os.Geteuid() != 0 {
		return finding{"root", failed, "not root", "run the agent and this check as root"}
	}
	return finding{"root", passed, "", ""}
}

func checkKVM(ctx context.Context) finding {
	result, err := kvmprobe.Probe(ctx, kvmprobe.DefaultConfig())
	if err != nil {
		return finding{"virtualization", failed, err.Error(), "install qemu-system-x86"}
	}
	if !result.Usable {
		return finding{"virtualization", warning, result.Reason,
			"guests will be emulated, which is slow; switch on VT-x or AMD-V in the firmware, or nested virtualization on the machine this one runs on"}
	}
	return finding{"virtualization", passed, "KVM runs guests", ""}
}

func checkProgram(program, pkg string) func(context.Context) finding {
	return func(context.Context) finding {
		path, err := exec.LookPath(program)
		if err != nil {
			return finding{program, failed, "not installed", "apt-get install " + pkg}
		}
		return finding{program, passed, path, ""}
	}
}

func checkLibvirt(ctx context.Context) finding {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, "virsh", "--connect", "qemu:///system", "version", "--daemon").CombinedOutput()
	if err != nil {
		detail, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
		if detail == "" {
			detail = err.Error() // virsh itself is missing, or hangs
		}
		return finding{"libvirt", failed, detail, "apt-get install libvirt-daemon-system libvirt-clients, then systemctl enable --now libvirtd"}
	}
	for line := range strings.Lines(string(out)) {
		if version, ok := strings.CutPrefix(line, "Running against daemon: "); ok {
			return finding{"libvirt", passed, strings.TrimSpace(version), ""}
		}
	}
	return finding{"libvirt", passed, "", ""}
}

// kernelModules are what guest networks need; a module may be built in.
var kernelModules = []string{"bridge", "veth", "tun", "nf_tables", "vxlan"}

func checkKernelFeatures(ctx context.Context) finding {
	var missing []string
	for _, module := range kernelModules {
		if !kernelHas(ctx, module) {
			missing = append(missing, module)
		}
	}
	if len(missing) > 0 {
		return finding{"kernel", warning, "not found: " + strings.Join(missing, " "),
			"load them with modprobe, or install Debian's full kernel (linux-image-amd64)"}
	}
	return finding{"kernel", passed, strings.Join(kernelModules, " "), ""}
}

// kernelHas looks for a loaded, built-in or loadable module, or for the
// feature itself where it shows.
func kernelHas(ctx context.Context, module string) bool {
	if _, err := os.Stat("/sys/module/" + module); err == nil {
		return true
	}
	if module == "tun" {
		_, err := os.Stat("/dev/net/tun")
		return err == nil
	}
	if exec.CommandContext(ctx, "modprobe", "--dry-run", "--quiet", module).Run() == nil {
		return true
	}
	config, err := exec.CommandContext(ctx, "zgrep", "-qi", "^CONFIG_"+module+"=[ym]", "/proc/config.gz").CombinedOutput()
	return err == nil && len(config) == 0
}

const wantedDisk = 10 << 30

// optional makes a failure of a check a warning.
func optional(check func(context.Context) finding) func(context.Context) finding {
	return func(ctx context.Context) finding {
		f := check(ctx)
		if f.Result == failed {
			f.Result = warning
		}
		return f
	}
}

// checkDisk checks the disk of the state directory, or of the directory in which it will
// be made.
func checkDisk(configPath string) func(context.Context) finding {
	return func(context.Context) finding {
		dir := membership.DefaultStateDir
		if config, err := loadHostConfig(configPath); err == nil {
			dir = config.StateDir
		}
		var found finding
		err := bounded.Wait(bounded.Patience, func() error {
			existing := dir
			for _, err := os.Stat(existing); errors.Is(err, os.ErrNotExist) && existing != filepath.Dir(existing); _, err = os.Stat(existing) {
				existing = filepath.Dir(existing)
			}
			found = checkSpace(existing)
			return nil
		})
		if err != nil {
			return finding{"disk", failed, fmt.Sprintf("the file system of %s does not answer", dir), "make " + dir + " a directory on a local disk"}
		}
		return found
	}
}

// checkPools checks the pools of the configuration.
func checkPools(configPath string) func(context.Context) finding {
	const check = "pools"
	return func(context.Context) finding {
		config, err := loadHostConfig(configPath)
		if err != nil {
			return finding{check, failed, err.Error(), "correct " + configPath}
		}
		var unusable []string
		for _, pool := range config.Pools {
			if err := host.CheckPool(pool, config.StateDir); err != nil {
				unusable = append(unusable, err.Error())
			}
		}
		if len(unusable) > 0 {
			return finding{check, warning, strings.Join(unusable, "; "), "machines that need such a pool wait until it can be used; the agent tries again by itself"}
		}
		return finding{check, passed, fmt.Sprint(len(config.Pools)), ""}
	}
}

func checkSpace(dir string) finding {
	var fs syscall.Statfs_t
	if err := syscall.Statfs(dir, &fs); err != nil {
		return finding{"disk", failed, err.Error(), "make " + dir + " a directory on a local disk"}
	}
	free := int64(fs.Bavail) * fs.Bsize
	detail := fmt.Sprintf("%.1f GiB free in %s", float64(free)/(1<<30), dir)
	if free < wantedDisk {
		return finding{"disk", warning, detail, "images and volumes need room: keep at least 10 GiB free"}
	}
	return finding{"disk", passed, detail, ""}
}

func checkClock(context.Context) finding {
	var t syscall.Timex
	state, err := syscall.Adjtimex(&t)
	const unsynchronised = 5
	if err != nil || state == unsynchronised {
		return finding{"clock", warning, "not synchronised", "run a time service, such as systemd-timesyncd or chrony: a host whose clock is off by more than 30 s cannot join"}
	}
	return finding{"clock", passed, "synchronised", ""}
}
