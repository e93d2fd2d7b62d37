package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/uuid"

	"virtmesh/agent/host/hypervisor/kvmprobe"
	"virtmesh/cli/lab/guestimage"
	"virtmesh/storage/durable"
)

// machines are hosts with a kernel of their own: QEMU runs Debian with systemd, AppArmor
// and Debian's libvirtd from a disk that stays when the power goes. QEMU is the first
// process of such a host, and killing it is a power loss.
//
// The cables are taps with the names that a host of namespaces has for its ends. A third
// card leads to a network of QEMU's own, on which only this machine reaches the host's
// sshd, by a port on the loopback: a host that is cut off can still be commanded.
type machines struct{ *Lab }

var _ chassis = machines{}

const (
	machineMemory = 2048 // MiB
	machineCPUs   = 2
	// dataDisk is the size of a host's second disk, /dev/vdb, which is empty at first.
	dataDisk = "16G"
	// bootTimeout is generous, because a lab may share a small machine and has no KVM.
	bootTimeout = 10 * time.Minute
)

func (l machines) rootDisk(h Host) string { return filepath.Join(l.hostDir(h), "root.qcow2") }
func (l machines) dataDisk(h Host) string { return filepath.Join(l.hostDir(h), "data.qcow2") }

// boot implements chassis.
func (l machines) boot(ctx context.Context, h Host, progress func(string, ...any)) error {
	image, err := l.image(ctx, h, progress)
	if err != nil {
		return err
	}
	key, err := l.publicKey(ctx)
	if err != nil {
		return err
	}
	if err := l.makeDisks(ctx, h, image); err != nil {
		return err
	}
	if err := l.plugTaps(ctx, h); err != nil {
		return err
	}
	accelerator, err := accelerate(ctx)
	if err != nil {
		return err
	}
	port, err := freePort("127.0.0.1:0")
	if err != nil {
		return err
	}
	if err := l.writePort(h, port); err != nil {
		return err
	}
	if err := l.spawnQEMU(h, append(accelerator, l.machine(h, image, key, port)...)); err != nil {
		return err
	}
	return l.waitBooted(ctx, h)
}

// image is what the host starts from. It stays the one that the host's disk is a layer of,
// also when this program knows a later one: the modules on that disk are for its kernel.
func (l machines) image(ctx context.Context, h Host, progress func(string, ...any)) (guestimage.Host, error) {
	record := filepath.Join(l.hostDir(h), "image.json")
	var image guestimage.Host
	data, err := os.ReadFile(record)
	if err == nil {
		err = json.Unmarshal(data, &image)
	}
	if err == nil {
		return image, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return image, fmt.Errorf("read what %s starts from: %w", h.Name, err)
	}
	image, err = guestimage.BuildHost(ctx, guestimage.Options{
		Dir: l.imagesDir(), Progress: func(line string) { progress("%s", line) },
	})
	if err != nil {
		return image, err
	}
	if data, err = json.Marshal(image); err != nil {
		return image, fmt.Errorf("note what %s starts from: %w", h.Name, err)
	}
	if err := durable.WriteFile(record, data, 0o644); err != nil {
		return image, fmt.Errorf("note what %s starts from: %w", h.Name, err)
	}
	return image, nil
}

// makeDisks makes the disks of a host that has none: a layer over the image, and an
// empty one.
func (l machines) makeDisks(ctx context.Context, h Host, image guestimage.Host) error {
	for _, disk := range []struct {
		path string
		args []string
	}{
		{l.rootDisk(h), []string{"-b", image.Disk, "-F", "raw", l.rootDisk(h)}},
		{l.dataDisk(h), []string{l.dataDisk(h), dataDisk}},
	} {
		if _, err := os.Stat(disk.path); !errors.Is(err, fs.ErrNotExist) {
			continue
		}
		args := append([]string{"create", "-q", "-f", "qcow2"}, disk.args...)
		if out, err := exec.CommandContext(ctx, "qemu-img", args...).CombinedOutput(); err != nil {
			return fmt.Errorf("make a disk of %s: %w: %s", h.Name, err, strings.TrimSpace(string(out)))
		}
	}
	return nil
}

// plugTaps connects the host's cards to the lab's networks.
func (l machines) plugTaps(ctx context.Context, h Host) error {
	if err := l.unplugCables(ctx, h); err != nil {
		return err
	}
	for _, c := range l.cables(h) {
		for _, args := range [][]string{
			{"tuntap", "add", "dev", c.outside, "mode", "tap"},
			{"link", "set", c.outside, "master", c.bridge},
			{"link", "set", c.outside, "up"},
		} {
			if err := ip(ctx, args...); err != nil {
				return err
			}
		}
	}
	return nil
}

// accelerate returns QEMU's arguments for KVM if KVM works, and for emulation otherwise.
func accelerate(ctx context.Context) ([]string, error) {
	result, err := kvmprobe.Probe(ctx, kvmprobe.DefaultConfig())
	if err != nil {
		return nil, err
	}
	if result.Usable {
		return []string{"-accel", "kvm", "-cpu", "host"}, nil
	}
	// A model without SVM: with it a host would offer its guests an emulated KVM, on
	// which QEMU 7.2 fails.
	return []string{"-accel", "tcg,thread=multi,tb-size=256", "-cpu", "Nehalem"}, nil
}

// machine is the rest of QEMU's arguments.
func (l machines) machine(h Host, image guestimage.Host, key string, port int) []string {
	commandLine := strings.Join([]string{
		"console=ttyS0", "quiet", "rw", "net.ifnames=0", "mitigations=off", "systemd.hostname=" + h.Name,
		"lab.address=" + h.Address, "lab.gateway=" + l.gateway(),
		fmt.Sprintf("lab.registry=%d", l.state.RegistryPort), "lab.key=" + key,
	}, " ")
	args := []string{
		"-name", h.Name, "-machine", "q35", "-smp", fmt.Sprint(machineCPUs), "-m", fmt.Sprint(machineMemory),
		"-nodefaults", "-no-user-config", "-display", "none",
		"-uuid", uuid.NewSHA1(uuid.NameSpaceOID, []byte(l.hostDir(h))).String(),
		"-kernel", image.Kernel, "-initrd", image.Initrd, "-append", commandLine,
		"-chardev", "file,id=console,append=on,path=" + comma(filepath.Join(l.LogDir(h), "console.log")), "-serial", "chardev:console",
		"-device", "virtio-rng-pci", "-device", "i6300esb", "-action", "watchdog=reset",
	}
	for i, disk := range []string{l.rootDisk(h), l.dataDisk(h)} {
		args = append(args,
			"-drive", fmt.Sprintf("if=none,id=disk%d,format=qcow2,discard=unmap,file=%s", i, comma(disk)),
			"-device", fmt.Sprintf("virtio-blk-pci,drive=disk%d,addr=0x%x", i, 8+i))
	}
	// Cards are named eth0, eth1, eth2 in the order of their places on the bus.
	for i, c := range l.cables(h) {
		args = append(args,
			"-netdev", fmt.Sprintf("tap,id=net%d,ifname=%s,script=no,downscript=no", i, c.outside),
			"-device", fmt.Sprintf("virtio-net-pci,netdev=net%d,mac=%s,addr=0x%x", i, fixedMAC(c.outside), 16+i))
	}
	return append(args,
		"-netdev", fmt.Sprintf("user,id=command,restrict=on,net=192.0.2.0/24,hostfwd=tcp:127.0.0.1:%d-192.0.2.15:22", port),
		"-device", "virtio-net-pci,netdev=command,addr=0x18")
}

// comma writes a path as QEMU reads it in a list.
func comma(path string) string { return strings.ReplaceAll(path, ",", ",,") }

// spawnQEMU starts the host's machine, which outlives the command.
func (l machines) spawnQEMU(h Host, args []string) error {
	log, err := os.OpenFile(filepath.Join(l.LogDir(h), "qemu.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return fmt.Errorf("open the log of %s: %w", h.Name, err)
	}
	defer log.Close()
	cmd := exec.Command("qemu-system-x86_64", args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr, cmd.SysProcAttr = "/", log, log, detached()
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", h.Name, err)
	}
	// Nobody waits for the host in this process: it outlives the command.
	defer cmd.Process.Release()
	return recordProcess(l.initRecord(h), cmd.Process.Pid)
}

// waitBooted returns when commands can run in the host.
func (l machines) waitBooted(ctx context.Context, h Host) error {
	return poll(ctx, bootTimeout, h.Name+" to start", func(ctx context.Context) error {
		pid, err := l.Running(h)
		if err != nil {
			return err
		}
		if pid == 0 {
			return fmt.Errorf("it has ended; see %s", filepath.Join(l.LogDir(h), "qemu.log"))
		}
		ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
		defer cancel()
		out, err := l.command(ctx, h, pid, []string{"true"}).CombinedOutput()
		if err != nil {
			return fmt.Errorf("log in: %w: %s; its console is in %s", err, strings.TrimSpace(string(out)), l.LogDir(h))
		}
		return nil
	})
}

// program implements chassis.
func (l machines) program() string { return "virtmesh" }

// enrolFlags implements chassis: a host has a bridge for guests, and the lab's registry on
// its loopback.
func (l machines) enrolFlags(h Host) []string {
	return []string{"--advertise", h.Address, "--bridge", "br1=" + guestUplink, "--insecure-registry", l.Registry()}
}
