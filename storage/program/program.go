// Package program starts the programs that the agent runs besides itself, such as
// qemu-img and xz.
package program

import (
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"syscall"
)

// Start starts cmd as cmd.Start does, and gives the program the OOM score of an ordinary
// process. The agent's unit gives the agent a score by which the kernel kills it last, and
// a program inherits the score: without Start, an image could make a converter take so
// much memory that the kernel kills a guest for it.
func Start(cmd *exec.Cmd) error {
	if err := cmd.Start(); err != nil {
		return err
	}
	// It fails if the program has ended already, or if /proc is not there; neither is a
	// reason not to run it.
	_ = os.WriteFile("/proc/"+strconv.Itoa(cmd.Process.Pid)+"/oom_score_adj", []byte("0"), 0)
	return nil
}

// Run is Start, and waits for the program to end as cmd.Run does. The program ends with this
// process, however that ends: nobody else would take back what was given to it.
func Run(cmd *exec.Cmd) error {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	// The kernel ends it with the thread that started it, so the goroutine keeps its thread.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := Start(cmd); err != nil {
		return err
	}
	return cmd.Wait()
}
