package privatelibvirtd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// pollInterval is how often to check whether a daemon has opened its socket or ended.
// The daemons notify only systemd of that.
const pollInterval = 20 * time.Millisecond

// Instance is a running private libvirt.
type Instance struct {
	// URI connects to it from any mount namespace that sees Config.Dir. Where the
	// mounts are made, qemu:///system reaches it too.
	URI string
	// Socket is the path in URI.
	Socket string

	cfg Config
	log *slog.Logger
}

// daemon is one of the two processes. Paths in args are as seen behind the mounts.
type daemon struct {
	name, path string
	args       []string
	socket     string
	pidFile    string
}

func daemons(c Config) (virtlogd, libvirtd daemon) {
	run := filepath.Join(c.Dir, "run")
	virtlogd = daemon{
		name: "virtlogd", path: c.Virtlogd,
		args:    []string{"--config", "/etc/libvirt/virtlogd.conf", "--pid-file", "/run/libvirt/virtlogd.pid"},
		socket:  filepath.Join(run, "virtlogd-sock"),
		pidFile: filepath.Join(run, "virtlogd.pid"),
	}
	libvirtd = daemon{
		name: "libvirtd", path: c.Libvirtd,
		args:    []string{"--config", "/etc/libvirt/libvirtd.conf", "--pid-file", "/run/libvirt/libvirtd.pid"},
		socket:  c.socket(),
		pidFile: filepath.Join(run, "libvirtd.pid"),
	}
	return virtlogd, libvirtd
}

// Start runs the daemons of c that are not running yet and returns when libvirt
// accepts connections. The daemons are in a session of their own and outlive the
// caller; a later Start with the same Dir finds them. ctx bounds the start only.
func Start(ctx context.Context, c Config) (*Instance, error) {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if err := Prepare(c); err != nil {
		return nil, err
	}
	in := &Instance{
		URI:    "qemu+unix:///system?socket=" + c.socket(),
		Socket: c.socket(),
		cfg:    c,
		log:    c.Logger,
	}
	virtlogd, libvirtd := daemons(c)
	for _, d := range []daemon{virtlogd, libvirtd} {
		if err := in.ensure(ctx, d); err != nil {
			return nil, fmt.Errorf("private libvirt: start %s: %w", d.name, err)
		}
	}
	return in, nil
}

// Stop ends libvirtd, then virtlogd, and waits for both. Guests keep running, and the
// next Start with the same Dir finds them again. What they print meanwhile is lost,
// because virtlogd reads it.
func (in *Instance) Stop(ctx context.Context) error {
	virtlogd, libvirtd := daemons(in.cfg)
	return errors.Join(in.end(ctx, libvirtd, syscall.SIGTERM), in.end(ctx, virtlogd, syscall.SIGTERM))
}

// StopLibvirtd ends libvirtd alone, as an upgrade of the package does. virtlogd and the
// guests keep running. Start starts it again.
func (in *Instance) StopLibvirtd(ctx context.Context) error {
	_, libvirtd := daemons(in.cfg)
	return in.end(ctx, libvirtd, syscall.SIGTERM)
}

// KillLibvirtd ends libvirtd without warning, as a crash does.
func (in *Instance) KillLibvirtd(ctx context.Context) error {
	_, libvirtd := daemons(in.cfg)
	return in.end(ctx, libvirtd, syscall.SIGKILL)
}

// ensure starts d unless it runs already.
func (in *Instance) ensure(ctx context.Context, d daemon) error {
	if pid := d.pid(); pid != 0 && answers(d.socket) {
		in.log.Debug("daemon already running", "daemon", d.name, "pid", pid)
		return nil
	}
	if err := in.end(ctx, d, syscall.SIGKILL); err != nil {
		return err
	}
	// A process that the ended daemon was just starting may still hold its socket, and
	// answer on it for the new one.
	if err := os.Remove(d.socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	stderr, err := os.OpenFile(filepath.Join(in.cfg.Dir, "log", d.name+".stderr"), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer stderr.Close()
	cmd := in.command(d)
	// The daemons pass their environment on to the guests' processes.
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C", "HOME=/"}
	cmd.Stdout, cmd.Stderr = stderr, stderr
	if err := cmd.Start(); err != nil {
		return err
	}
	exited := make(chan error, 1)
	// The goroutine reaps the daemon, so that it does not stay a zombie. It ends with
	// the daemon, which may outlive every caller.
	go func() { exited <- cmd.Wait() }()
	if err := in.awaitSocket(ctx, d, exited); err != nil {
		_ = cmd.Process.Kill()
		return fmt.Errorf("%w; its error output ends with: %s", err, lastWords(stderr.Name()))
	}
	in.log.Info("daemon started", "daemon", d.name, "pid", cmd.Process.Pid)
	return nil
}

func (in *Instance) command(d daemon) *exec.Cmd {
	if !in.cfg.Isolate {
		cmd := exec.Command(d.path, d.args...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		return cmd
	}
	script := MountScript(in.cfg) + `exec "$@"`
	cmd := exec.Command("/bin/sh", append([]string{"-c", script, d.name, d.path}, d.args...)...)
	// The mounts of the new namespace are made private by the runtime, so that
	// those of the script do not spread back.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Unshareflags: syscall.CLONE_NEWNS}
	return cmd
}

func (in *Instance) awaitSocket(ctx context.Context, d daemon, exited <-chan error) error {
	ctx, cancel := context.WithTimeout(ctx, in.cfg.StartTimeout)
	defer cancel()
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for !answers(d.socket) {
		select {
		case err := <-exited:
			return fmt.Errorf("it ended at once (%v)", err)
		case <-ctx.Done():
			return fmt.Errorf("no answer on %s: %w", d.socket, ctx.Err())
		case <-tick.C:
		}
	}
	return nil
}

// end sends d a signal, if it runs, and waits until it has ended.
func (in *Instance) end(ctx context.Context, d daemon, sig syscall.Signal) error {
	pid := d.pid()
	if pid == 0 {
		return nil
	}
	if err := syscall.Kill(pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("signal %s (pid %d): %w", d.name, pid, err)
	}
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for d.pid() == pid {
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s (pid %d) has not ended: %w", d.name, pid, ctx.Err())
		case <-tick.C:
		}
	}
	in.log.Info("daemon ended", "daemon", d.name, "pid", pid)
	return nil
}

// pid returns the process of d, or 0 when it does not run. The daemon holds a lock on
// its pid file as long as it lives, and the lock names the holder: unlike the number
// in the file, that is never stale and never another process.
func (d daemon) pid() int {
	f, err := os.OpenFile(d.pidFile, os.O_RDWR, 0)
	if err != nil {
		return 0
	}
	defer f.Close()
	lock := syscall.Flock_t{Type: syscall.F_WRLCK, Whence: io.SeekStart}
	if err := syscall.FcntlFlock(f.Fd(), syscall.F_GETLK, &lock); err != nil || lock.Type == syscall.F_UNLCK {
		return 0
	}
	return int(lock.Pid)
}

func answers(socket string) bool {
	conn, err := net.DialTimeout("unix", socket, time.Second)
	if err != nil {
		return false
	}
	_ = conn.Close()
	return true
}

// lastWords returns the end of a daemon's error output for an error message.
func lastWords(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	const limit = 2048
	if info, err := f.Stat(); err == nil && info.Size() > limit {
		_, _ = f.Seek(-limit, io.SeekEnd)
	}
	text, _ := io.ReadAll(io.LimitReader(f, limit))
	if len(bytes.TrimSpace(text)) == 0 {
		return "nothing"
	}
	return string(bytes.TrimSpace(text))
}
