package program

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// Sandbox says how a program is confined that reads what others wrote, such as an image.
// A fault in such a program may let the content take it over; then it has what its user
// has. The zero value sets no limits and leaves the program this process's user. Where the
// kernel has Landlock, a program in any sandbox can open no file but those that it is given,
// those of Reads, and what programs need to run.
type Sandbox struct {
	// User is whom the program runs as, in namespaces without a network and without the
	// System V IPC and the host name of the host, without capabilities and with no way to
	// get any. Only root can set it.
	User *User
	// MemoryBytes limits the address space, FileBytes each file that is written, CPUTime the
	// processor time; 0 is no limit.
	MemoryBytes, FileBytes int64
	CPUTime                time.Duration
	// Reads are files and folders that the program may read besides.
	Reads []string
}

// User is a uid and a gid of the host.
type User struct{ UID, GID uint32 }

// Users are uids of which each run of a program gets another, so that two programs that
// run at once cannot reach each other either. Their methods may be called at once.
type Users struct {
	first, count, gid uint32
	given             atomic.Uint32
}

// NewUsers returns the count uids from first on, with one group. It begins with any of
// them: what another process of this program may have left belongs to a user that is
// hardly the next one.
func NewUsers(first, count, gid uint32) *Users {
	u := &Users{first: first, count: count, gid: gid}
	u.given.Store(rand.Uint32N(count))
	return u
}

// Next returns the next user. After as many calls as there are uids it begins anew.
func (u *Users) Next() *User {
	return &User{UID: u.first + (u.given.Add(1)-1)%u.count, GID: u.gid}
}

// waitDelay is how long a program that was told to end may keep its output open.
const waitDelay = 5 * time.Second

// Confined is a command in a sandbox. Of the methods that start it, those of Confined confine
// it wholly; those of Cmd leave Landlock out.
type Confined struct {
	*exec.Cmd
	reads []string
}

// Command returns a command that runs the program at path in s: looked up in PATH if it has
// no slash, with files as its descriptors from number 3 on. It ends with ctx.
func (s Sandbox) Command(ctx context.Context, files []*os.File, path string, args ...string) *Confined {
	argv := append(s.prefix(), append([]string{path}, args...)...)
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = []string{"LC_ALL=C", "PATH=" + os.Getenv("PATH")}
	cmd.Dir, cmd.WaitDelay, cmd.ExtraFiles = "/", waitDelay, files
	if s.User != nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS}
	}
	return &Confined{Cmd: cmd, reads: append(searchPaths(path), s.Reads...)}
}

// Start is exec.Cmd.Start.
func (c *Confined) Start() error {
	ended := make(chan struct{})
	close(ended)
	return c.start(ended)
}

// Run is exec.Cmd.Run. The program ends with this process, however that ends: nobody else
// would take back what was given to it.
func (c *Confined) Run() error {
	if c.SysProcAttr == nil {
		c.SysProcAttr = &syscall.SysProcAttr{}
	}
	c.SysProcAttr.Pdeathsig = syscall.SIGKILL
	ended := make(chan struct{})
	defer close(ended)
	if err := c.start(ended); err != nil {
		return err
	}
	return c.Wait()
}

// start starts the program from a thread that is restricted as the program is to be, and that
// is there until ended closes: with Pdeathsig the kernel ends the program with the thread.
func (c *Confined) start(ended <-chan struct{}) error {
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked, so the thread ends with the goroutine
		err := restrictThread(c.ExtraFiles, c.reads)
		if err == nil {
			err = c.Cmd.Start()
		}
		started <- err
		<-ended
	}()
	if err := <-started; err != nil {
		return err
	}
	giveOrdinaryScore(c.Process)
	return nil
}

// prefix returns the programs of util-linux, with their arguments, that confine themselves
// and then become the program.
func (s Sandbox) prefix() []string {
	var argv []string
	if u := s.User; u != nil {
		// The kernel forgets at a change of the user that the program ends with its parent.
		argv = append(argv, "setpriv", "--pdeathsig=keep", fmt.Sprintf("--reuid=%d", u.UID), fmt.Sprintf("--regid=%d", u.GID), "--clear-groups",
			"--bounding-set=-all", "--inh-caps=-all", "--no-new-privs", "--")
	}
	argv = append(argv, "prlimit", "--core=0")
	for _, limit := range []struct {
		option string
		most   int64
	}{
		{"--as=", s.MemoryBytes}, {"--fsize=", s.FileBytes}, {"--cpu=", int64(s.CPUTime.Seconds())},
	} {
		if limit.most > 0 {
			argv = append(argv, limit.option+strconv.FormatInt(limit.most, 10))
		}
	}
	return append(argv, "--")
}

// Check returns why nothing can run in s on this host, nil if something can.
func (s Sandbox) Check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	cmd := s.Command(ctx, nil, "true")
	var said strings.Builder
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("nothing runs in the sandbox for converters of images: %w", errors.Join(err, asError(said.String())))
	}
	return nil
}

func asError(text string) error {
	if text = strings.TrimSpace(text); text == "" {
		return nil
	}
	return errors.New(text)
}
