// Package program starts the programs that the agent runs besides itself, such as
// qemu-img and xz.
package program

import (
	"os"
	"os/exec"
	"strconv"
)

// Start starts cmd as cmd.Start does, and gives the program the OOM score of an ordinary
// process. The agent's unit gives the agent a score by which the kernel kills it last, and
// a program inherits the score: without Start, an image could make a converter take so
// much memory that the kernel kills a guest for it.
func Start(cmd *exec.Cmd) error {
	if err := cmd.Start(); err != nil {
		return err
	}
	giveOrdinaryScore(cmd.Process)
	return nil
}

func giveOrdinaryScore(process *os.Process) {
	// It fails if the program has ended already, or if /proc is not there; neither is a
	// reason not to run it.
	_ = os.WriteFile("/proc/"+strconv.Itoa(process.Pid)+"/oom_score_adj", []byte("0"), 0)
}
