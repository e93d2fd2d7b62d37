package guestservices

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/fsnotify/fsnotify"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"
)

// repairEvery is how often servers that have ended are started again, and those compared
// with their bridges that run. A server that cannot be started is tried as often.
const repairEvery = 5 * time.Second

// Config configures the process. Dir, Build and Logger are required.
type Config struct {
	// Dir is the folder that the process shares with the agent.
	Dir string
	// Build says which program the process runs, see BuildOf.
	Build  string
	Logger *slog.Logger
	// Inherited is the value of the environment variable that the program before left.
	Inherited string
	// Starter starts servers; nil starts real ones.
	Starter Starter
	// Execute replaces this program by another; nil does. It returns only with an error.
	Execute func(program string, arguments, environment []string) error
}

// Arguments are the command line of the process, without the program.
func Arguments(dir string) []string { return []string{"guest-services", "--dir", dir} }

// Self is the program that this process runs, also after its file was replaced.
const Self = "/proc/self/exe"

// BuildOf says which program a process runs: its version, and which file it is.
func BuildOf(version, program string) string { return version + " " + fileID(program) }

// fileID tells a file from the one that takes its place.
func fileID(path string) string {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return ""
	}
	return fmt.Sprintf("%x:%x:%x", st.Dev, st.Ino, st.Mtim.Nano())
}

func revisionOf(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:8])
}

// process is the running process. One goroutine, which runs it, uses it.
type process struct {
	cfg      Config
	registry *prometheus.Registry
	servers  *Servers
	lock     int
	control  *net.UnixListener
	asked    chan asked

	state    State
	revision string
	failed   map[string]error
	// refused is why the file that is there is not used.
	refused error
	// started says that a file was there once: when it goes, the process ends.
	started bool
}

// Run answers guests from the file in cfg.Dir until ctx ends or the file is removed. It
// waits for a file that is not there yet. Without a file that it can read it goes on with
// the last one. It returns an error at once if another process serves the folder, and when
// the agent cannot reach it any more, so that it is started anew.
func Run(ctx context.Context, cfg Config) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	p, err := start(cfg)
	if err != nil {
		return err
	}
	defer p.close()
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch %s: %w", cfg.Dir, err)
	}
	defer watcher.Close()
	if err := watcher.Add(cfg.Dir); err != nil {
		return fmt.Errorf("watch %s: %w", cfg.Dir, err)
	}
	var accepting sync.WaitGroup
	var acceptErr error
	accepting.Go(func() {
		if err := acceptRequests(ctx, p.control, p.asked); err != nil {
			acceptErr = fmt.Errorf("the agent cannot reach guest services any more: %w", err)
		}
		cancel()
	})
	err = p.serve(ctx, watcher)
	cancel()
	_ = p.control.Close()
	accepting.Wait()
	return errors.Join(err, acceptErr)
}

// start takes the folder over, from the program before if there was one.
func start(cfg Config) (*process, error) {
	p := &process{cfg: cfg, registry: prometheus.NewRegistry(), asked: make(chan asked)}
	if p.cfg.Execute == nil {
		p.cfg.Execute = unix.Exec
	}
	if p.cfg.Starter == nil {
		var err error
		if p.cfg.Starter, err = NewStarter(cfg.Logger, p.registry); err != nil {
			return nil, err
		}
	}
	p.servers = NewServers(ServersConfig{Starter: p.cfg.Starter, Logger: cfg.Logger})
	in, err := readInheritance(cfg.Inherited)
	if err != nil {
		return nil, err
	}
	if in != nil {
		p.servers.adopt(in.Sockets)
		p.lock = in.Lock
		l, err := Sockets{controlName: in.Control}.listener(controlName)
		if err != nil {
			return nil, err
		}
		p.control = l.(*net.UnixListener)
		p.control.SetUnlinkOnClose(false)
		return p, nil
	}
	if p.lock, err = openLock(cfg.Dir); err != nil {
		return nil, err
	}
	if p.control, err = listenControl(cfg.Dir); err != nil {
		_ = unix.Close(p.lock)
		return nil, err
	}
	return p, nil
}

func (p *process) close() {
	if err := p.servers.Close(); err != nil {
		p.cfg.Logger.Warn("guest services could not be closed cleanly", "err", err)
	}
	_ = p.control.Close()
	_ = unix.Close(p.lock)
}

// serve is the loop of the process.
func (p *process) serve(ctx context.Context, watcher *fsnotify.Watcher) error {
	repair := time.NewTicker(repairEvery)
	defer repair.Stop()
	p.cfg.Logger.Info("guest services started", "dir", p.cfg.Dir, "build", p.cfg.Build)
	p.readFile(ctx, true)
	_, _ = daemon.SdNotify(false, daemon.SdNotifyReady) // there may be no service manager
	for !p.isOver() {
		select {
		case <-ctx.Done():
			return nil
		case event := <-watcher.Events:
			if filepath.Base(event.Name) == stateName {
				p.readFile(ctx, false)
			}
		case err := <-watcher.Errors:
			p.cfg.Logger.Warn("a change of the file may have been missed", "err", err)
		case <-repair.C:
			p.readFile(ctx, true)
			_, _ = daemon.SdNotify(false, daemon.SdNotifyWatchdog)
		case a := <-p.asked:
			if err := p.handle(ctx, a); err != nil {
				return err
			}
		}
	}
	p.cfg.Logger.Info("guest services end: the agent has removed their file")
	return nil
}

// isOver reports whether the file was there and is gone: this host belongs to no mesh any
// more.
func (p *process) isOver() bool { return p.started && p.revision == "" }

// readFile applies the file if it has changed, and, with repair, puts the servers in order
// if it has not.
func (p *process) readFile(ctx context.Context, repair bool) {
	data, err := os.ReadFile(filepath.Join(p.cfg.Dir, stateName))
	if errors.Is(err, fs.ErrNotExist) {
		p.revision = ""
		return
	}
	var want State
	revision := revisionOf(data)
	if err == nil && revision != p.revision {
		want, err = Decode(data)
	}
	p.refuse(err)
	switch {
	case err == nil && revision != p.revision:
		p.state, p.revision, p.started = want, revision, true
	case !p.started || !repair && len(p.failed) == 0:
		return
	}
	failed := p.servers.Set(ctx, p.state)
	for subject, err := range failed {
		if was := p.failed[subject]; was == nil || was.Error() != err.Error() {
			p.cfg.Logger.Error("a server for guests does not run", "server", subject, "err", err)
		}
	}
	p.failed = failed
}

// refuse remembers why the file is not used, and logs a reason once.
func (p *process) refuse(err error) {
	if err != nil && (p.refused == nil || p.refused.Error() != err.Error()) {
		p.cfg.Logger.Error("the file cannot be used; guests are answered from the one before", "err", err)
	}
	p.refused = err
}

// handle answers a request. An error is that of a renewal which could not be undone.
func (p *process) handle(ctx context.Context, a asked) error {
	defer a.drop()
	r := reply{Protocol: protocolVersion, Build: p.cfg.Build, PID: os.Getpid()}
	switch a.Ask {
	case askStatus:
		p.readFile(ctx, false)
		r.Revision, r.Failed = p.revision, map[string]string{}
		for subject, err := range p.failed {
			r.Failed[subject] = err.Error()
		}
		if p.refused != nil {
			r.Failed["file"] = p.refused.Error()
		}
		families, _ := p.registry.Gather() // what could be gathered
		r.Counters = countersOf(families)
		a.answer(r)
	case askRenew:
		if err := checkProgram(a.programs); err != nil {
			r.Error = err.Error()
			a.answer(r)
			return nil
		}
		a.answer(r)
		return p.renew(ctx, fmt.Sprintf("/proc/self/fd/%d", a.programs[0]))
	default:
		r.Error = fmt.Sprintf("%q is not known to this version", a.Ask)
		a.answer(r)
	}
	return nil
}

// checkProgram returns an error unless one program came with a request.
func checkProgram(fds []int) error {
	if len(fds) != 1 {
		return fmt.Errorf("%d programs came with the request, and not 1", len(fds))
	}
	var st unix.Stat_t
	if err := unix.Fstat(fds[0], &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Mode&0o111 == 0 {
		return errors.New("what came with the request is not a program")
	}
	return nil
}

// renew executes another program in place of this one. Requests of guests wait in the
// sockets until that goes on with them. If it cannot be executed, this one does.
func (p *process) renew(ctx context.Context, program string) error {
	control, err := duplicate(p.control)
	if err != nil {
		p.cfg.Logger.Error("guest services could not be renewed", "program", program, "err", err)
		return nil
	}
	defer unix.Close(control)
	sockets, err := p.servers.handOver()
	if err != nil {
		p.cfg.Logger.Warn("not all of guest services could be handed over", "err", err)
	}
	in := inheritance{Version: inheritanceVersion, Lock: p.lock, Control: control, Sockets: sockets}
	if err = p.execute(program, in); err != nil {
		p.cfg.Logger.Error("guest services could not be renewed and go on as they are", "program", program, "err", err)
		err = in.keepOnExec(false)
	}
	p.failed = p.servers.Set(ctx, p.state)
	return err
}

func (p *process) execute(program string, in inheritance) error {
	text, err := json.Marshal(in)
	if err != nil {
		return err
	}
	if err := in.keepOnExec(true); err != nil {
		return err
	}
	environment := []string{inheritanceVariable + "=" + string(text)}
	for _, setting := range os.Environ() {
		if !strings.HasPrefix(setting, inheritanceVariable+"=") {
			environment = append(environment, setting)
		}
	}
	p.cfg.Logger.Info("guest services are renewed", "program", program)
	return p.cfg.Execute(program, append([]string{"virtmesh"}, Arguments(p.cfg.Dir)...), environment)
}

// Inherited returns what the program before left for Config.Inherited, and takes it out of
// the environment of programs to come.
func Inherited() string {
	value := os.Getenv(inheritanceVariable)
	_ = os.Unsetenv(inheritanceVariable)
	return value
}
