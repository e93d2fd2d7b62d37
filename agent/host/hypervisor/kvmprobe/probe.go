package kvmprobe

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"virtmesh/storage/program"
)

// Mode says how the host chooses between KVM and emulation.
type Mode string

// The modes.
const (
	// Auto lets the probe decide.
	Auto Mode = "auto"
	// KVM uses hardware virtualization without a probe.
	KVM Mode = "kvm"
	// TCG never uses hardware virtualization: QEMU emulates the processors.
	TCG Mode = "tcg"
)

// Config describes a probe.
type Config struct {
	Mode Mode
	// Emulator is the QEMU binary.
	Emulator string
	// Device is KVM's device node.
	Device string
	// User and Group run the probe. They should be those that run guests, which may
	// lack permissions that root has. Without User the probe runs as the caller.
	User, Group string
	// StageTimeout bounds each stage of the payload, and the start of the emulator.
	StageTimeout time.Duration
}

// DefaultConfig returns the settings for Debian's packages.
func DefaultConfig() Config {
	return Config{
		Mode:         Auto,
		Emulator:     "/usr/bin/qemu-system-x86_64",
		Device:       "/dev/kvm",
		User:         "libvirt-qemu",
		Group:        "kvm",
		StageTimeout: 3 * time.Second,
	}
}

// Validate returns an error that names every invalid field of c.
func (c Config) Validate() error {
	var errs []error
	switch c.Mode {
	case Auto, KVM, TCG:
	default:
		errs = append(errs, fmt.Errorf("Mode %q must be auto, kvm or tcg", c.Mode))
	}
	if c.Emulator == "" {
		errs = append(errs, errors.New("Emulator must be set"))
	}
	if c.Device == "" {
		errs = append(errs, errors.New("Device must be set"))
	}
	if c.StageTimeout <= 0 {
		errs = append(errs, errors.New("StageTimeout must be positive"))
	}
	return errors.Join(errs...)
}

// Result is the result of a probe.
type Result struct {
	// Usable says whether guests should run with KVM.
	Usable bool
	// Reason says why, for a condition of the Node.
	Reason string
	// Took is how long the probe took.
	Took time.Duration
}

// Probe finds out within seconds whether KVM works. An error means that c is invalid or
// that ctx has ended; KVM that does not work is a result, not an error.
func Probe(ctx context.Context, c Config) (Result, error) {
	if err := c.Validate(); err != nil {
		return Result{}, fmt.Errorf("probe KVM: %w", err)
	}
	switch c.Mode {
	case KVM:
		return Result{Usable: true, Reason: "KVM is used because the configuration says so"}, nil
	case TCG:
		return Result{Reason: "KVM is not used because the configuration says so"}, nil
	}
	began := time.Now()
	err := probe(ctx, c)
	if ctx.Err() != nil {
		return Result{}, fmt.Errorf("probe KVM: %w", ctx.Err())
	}
	result := Result{Usable: err == nil, Reason: "a test guest ran with KVM", Took: time.Since(began)}
	if err != nil {
		result.Reason = "guests are emulated: " + err.Error()
	}
	return result, nil
}

func probe(ctx context.Context, c Config) error {
	if info, err := os.Stat(c.Device); err != nil || info.Mode()&os.ModeCharDevice == 0 {
		return fmt.Errorf("there is no %s", c.Device)
	}
	return run(ctx, c, "kvm", "host")
}

// run boots the payload with the given accelerator and CPU model. The error says at
// which stage it stopped.
func run(ctx context.Context, c Config, accelerator, cpu string) error {
	dir, err := os.MkdirTemp("", "kvmprobe")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	image := filepath.Join(dir, "rom")
	// The emulator's user must reach the image; there is no secret in it.
	if err := errors.Join(os.Chmod(dir, 0o755), os.WriteFile(image, rom(), 0o644), os.Chmod(image, 0o644)); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cmd := exec.CommandContext(ctx, c.Emulator,
		"-no-user-config", "-nodefaults", "-display", "none", "-machine", "q35,accel="+accelerator,
		"-cpu", cpu, "-m", "64", "-bios", image, "-debugcon", "stdio",
		"-device", "isa-debug-exit,iobase=0xf4,iosize=4", "-no-reboot",
		"-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny")
	cmd.Env = []string{"PATH=/usr/bin:/bin", "LC_ALL=C"}
	cmd.WaitDelay = time.Second
	if cmd.SysProcAttr, err = credentials(c); err != nil {
		return err
	}
	complaints := &limited{}
	cmd.Stderr = complaints
	// The emulator must end with this process. The kernel ends it with the thread that
	// started it, so the goroutine keeps its thread.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := program.Start(cmd); err != nil {
		return err
	}
	reached := follow(stdout, c.StageTimeout, cancel)
	return verdict(cmd.Wait(), reached, c.StageTimeout, complaints.String())
}

// follow reads the letters of the stages and returns how many came in order. It calls
// give up when one does not come in time.
func follow(output io.Reader, patience time.Duration, giveUp func()) (reached int) {
	letters := make(chan byte)
	go func() {
		defer close(letters)
		one := make([]byte, 1)
		for {
			if n, err := output.Read(one); n == 1 {
				letters <- one[0]
			} else if err != nil {
				return
			}
		}
	}()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for {
		select {
		case letter, open := <-letters:
			if !open {
				return reached
			}
			if reached < len(stages) && letter == stages[reached].letter {
				reached++
				timer.Reset(patience)
			}
		case <-timer.C:
			giveUp()
			// The pipe closes with the process, and ends the goroutine.
			for range letters {
			}
			return reached
		}
	}
}

// verdict turns the end of the emulator into nil or a reason.
func verdict(err error, reached int, patience time.Duration, complaints string) error {
	var exit *exec.ExitError
	ended := errors.As(err, &exit) && exit.Exited()
	if reached == len(stages) && ended && exit.ExitCode() == exitCode {
		return nil
	}
	where := "before its first instruction"
	if reached > 0 {
		where = "in " + stages[reached-1].name
	}
	if ended || err == nil || (exit != nil && !killed(exit)) {
		return fmt.Errorf("the test guest ended %s (%v): %s", where, err, orNothing(complaints))
	}
	return fmt.Errorf("the test guest stuck %s for %v: KVM is there but does not run guests at speed", where, patience)
}

// killed reports whether this process ended the emulator.
func killed(exit *exec.ExitError) bool {
	status, ok := exit.Sys().(syscall.WaitStatus)
	return ok && status.Signaled() && status.Signal() == syscall.SIGKILL
}

func orNothing(complaints string) string {
	if complaints = strings.TrimSpace(complaints); complaints == "" {
		return "it said nothing"
	}
	return complaints
}

// credentials makes the emulator run as the guests' user, if this process may change
// its user.
func credentials(c Config) (*syscall.SysProcAttr, error) {
	attr := &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if c.User == "" || os.Geteuid() != 0 {
		return attr, nil
	}
	u, err := user.Lookup(c.User)
	if err != nil {
		return nil, err
	}
	g, err := user.LookupGroup(c.Group)
	if err != nil {
		return nil, err
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return nil, err
	}
	gid, err := strconv.ParseUint(g.Gid, 10, 32)
	if err != nil {
		return nil, err
	}
	attr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	return attr, nil
}

// limited keeps the first bytes of what is written to it.
type limited struct{ buf bytes.Buffer }

// Write implements io.Writer.
func (l *limited) Write(p []byte) (int, error) {
	const most = 1024
	if room := most - l.buf.Len(); room > 0 {
		l.buf.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}

// String returns the bytes that were kept.
func (l *limited) String() string { return l.buf.String() }
