package program_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"virtmesh/storage/program"
)

// A confined program has no rights, no network and bounds, and two of them are different
// users.
func TestSandboxConfines(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	users := program.NewUsers(1_900_000_000, 2, 23456)
	seen := map[string]bool{}
	for range 2 {
		s := program.Sandbox{User: users.Next(), MemoryBytes: 1 << 30, FileBytes: 1 << 20, CPUTime: time.Minute, Reads: []string{"/proc"}}
		if err := s.Check(t.Context()); err != nil {
			t.Fatal(err)
		}
		const script = `grep -E "^(Uid|Gid|Groups|CapPrm|CapBnd|NoNewPrivs):" /proc/self/status; cat /proc/net/dev /proc/self/limits; pwd; env`
		cmd := s.Command(t.Context(), nil, "sh", "-c", script)
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Run(); err != nil {
			t.Fatalf("%v: %s", err, &out)
		}
		said := strings.Join(strings.Fields(out.String()), " ")
		user := fmt.Sprint("Uid: ", s.User.UID, " ", s.User.UID, " ", s.User.UID, " ", s.User.UID)
		for _, want := range []string{
			user, "Gid: 23456 23456 23456 23456 Groups: CapPrm: 0000000000000000 CapBnd: 0000000000000000 NoNewPrivs: 1",
			"Max address space 1073741824 1073741824", "Max file size 1048576 1048576", "Max cpu time 60 60", "Max core file size 0 0", " / ",
		} {
			if !strings.Contains(said, want) {
				t.Errorf("%q is missing: %s", want, said)
			}
		}
		for _, card := range cards(t) {
			if strings.Contains(said, card+": ") {
				t.Errorf("it sees the network card %s: %s", card, said)
			}
		}
		seen[user] = true
	}
	if len(seen) != 2 {
		t.Errorf("the users are %v", seen)
	}
}

// Where the kernel has Landlock, a program reads nothing but what it was given and what it
// needs to run, although everybody may, and writes nothing but what it was given for that.
func TestSandboxOpensNothingElse(t *testing.T) {
	if program.LandlockVersion() == 0 {
		t.Skip("the kernel has no Landlock")
	}
	dir, err := os.MkdirTemp("", "sandbox") // others cannot pass t.TempDir
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := func(name string) string { return filepath.Join(dir, name) }
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	var files []*os.File
	for name, flags := range map[string]int{"other": 0, "backing": 0, "read": os.O_RDONLY, "written": os.O_RDWR} {
		if err := os.WriteFile(path(name), []byte("text of "+name+"\n"), 0o666); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path(name), 0o666); err != nil {
			t.Fatal(err)
		}
		if name != "read" && name != "written" {
			continue
		}
		file, err := os.OpenFile(path(name), flags, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		files = append(files, file)
	}
	s := program.Sandbox{Reads: []string{path("backing")}}
	if os.Geteuid() == 0 {
		s.User = program.NewUsers(1_900_000_000, 2, 23456).Next()
	}
	const script = `cd "$1"
for f in other backing read written new /etc/passwd; do
	( : <"$f" ) 2>/dev/null && echo "read $f"
	( : >>"$f" ) 2>/dev/null && echo "write $f"
done
echo *; mkdir folder 2>/dev/null && echo "makes a folder"
cat /proc/self/fd/3 /proc/self/fd/4; true`
	cmd := s.Command(t.Context(), files, "sh", "-c", script, "sh", dir)
	var out bytes.Buffer
	cmd.Stdout = &out
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	slices.Sort(lines)
	want := []string{"*", "read backing", "read read", "read written", "text of read", "text of written", "write written"}
	if !slices.Equal(lines, want) {
		t.Errorf("it can do %q, want %q", lines, want)
	}
	// What holds the program back does not hold back this process.
	if _, err := os.ReadFile(path("other")); err != nil {
		t.Error(err)
	}
}

// cards returns the network cards of this machine that are up, without loopback.
func cards(t *testing.T) (names []string) {
	t.Helper()
	all, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, card := range all {
		if card.Flags&net.FlagUp != 0 && card.Flags&net.FlagLoopback == 0 {
			names = append(names, card.Name)
		}
	}
	return names
}

// Without a user only the bounds hold, and who cannot be confined is told.
func TestSandboxOfAnyUser(t *testing.T) {
	s := program.Sandbox{FileBytes: 1 << 20}
	if err := s.Check(t.Context()); err != nil {
		t.Error(err)
	}
	t.Setenv("PATH", t.TempDir())
	if err := s.Check(t.Context()); err == nil || !strings.Contains(err.Error(), "prlimit") {
		t.Errorf("without prlimit: %v", err)
	}
}

// The program ends with its context.
func TestSandboxEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cmd := program.Sandbox{}.Command(ctx, nil, "sh", "-c", "exec tail -f /dev/null")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := cmd.Wait(); err == nil {
		t.Error("it ended well")
	}
}

// The program ends with this process, however that ends, and although it is another user's.
func TestProgramEndsWithItsProcess(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	const child = "VIRTMESH_TEST_RUNS_A_PROGRAM"
	if os.Getenv(child) != "" {
		s := program.Sandbox{User: program.NewUsers(1_900_000_000, 2, 23456).Next()}
		cmd := s.Command(t.Context(), nil, "sh", "-c", "echo runs; exec tail -f /dev/null")
		cmd.Stdout = os.Stdout
		t.Fatal(cmd.Run())
	}
	process := exec.Command(os.Args[0], "-test.run=^TestProgramEndsWithItsProcess$")
	process.Env = append(os.Environ(), child+"=1")
	output, err := process.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := process.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(output)
	if line, err := lines.ReadString('\n'); line != "runs\n" {
		t.Errorf("the program said %q, %v", line, err)
	}
	if err := process.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	// The pipe ends once nobody has it: the program has it too.
	if _, err := io.ReadAll(lines); err != nil {
		t.Error(err)
	}
	if err := process.Wait(); err == nil {
		t.Error("it was not killed")
	}
}
