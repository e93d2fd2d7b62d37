package program_test

import (
	"bytes"
	"os"
	"os/exec"
	"strings"
	"testing"

	"virtmesh/storage/program"
)

// A program does not inherit the score by which the kernel spares the agent. The test
// gives itself another score than the usual one; a lower one would need rights.
func TestProgramHasOrdinaryOOMScore(t *testing.T) {
	const own = "/proc/self/oom_score_adj"
	before, err := os.ReadFile(own)
	if err != nil {
		t.Skip(err)
	}
	if err := os.WriteFile(own, []byte("300"), 0); err != nil {
		t.Skip(err)
	}
	defer os.WriteFile(own, before, 0)
	// The program reads its score when its input ends, so not before it was set.
	input, hold, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer input.Close()
	cmd := exec.Command("/bin/sh", "-c", "cat; cat "+own)
	var out bytes.Buffer
	cmd.Stdin, cmd.Stdout = input, &out
	err = program.Start(cmd)
	hold.Close()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if got := strings.TrimSpace(out.String()); got != "0" {
		t.Errorf("the program's OOM score is %s, want 0", got)
	}
}
