package guestimage

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"
)

// command is one program to run: Dir and Env are optional, Path is put before
// the caller's PATH so that tools unpacked from packages are found.
type command struct {
	Dir  string
	Path []string
	Env  []string
	Name string
	Args []string
}

// runCommand runs c and returns its standard output. An error carries the end of what
// the program printed, since that is where programs say why.
func runCommand(ctx context.Context, c command) ([]byte, error) {
	name := c.Name
	for _, dir := range c.Path {
		if p := dir + "/" + c.Name; isFile(p) {
			name = p
			break
		}
	}
	cmd := exec.CommandContext(ctx, name, c.Args...)
	cmd.Dir = c.Dir
	cmd.WaitDelay = 10 * time.Second
	cmd.Env = append(os.Environ(), "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive")
	if len(c.Path) > 0 {
		cmd.Env = append(cmd.Env, "PATH="+strings.Join(append(c.Path, os.Getenv("PATH")), ":"))
	}
	cmd.Env = append(cmd.Env, c.Env...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, fmt.Errorf("%s %s: %w: %s", c.Name, strings.Join(c.Args, " "), err,
			lastBytes(stderr.String()+stdout.String(), 2000))
	}
	return stdout.Bytes(), nil
}

func lastBytes(s string, n int) string {
	s = strings.TrimSpace(s)
	if len(s) > n {
		return "..." + s[len(s)-n:]
	}
	return s
}

func isFile(p string) bool {
	st, err := os.Stat(p)
	return err == nil && st.Mode().IsRegular()
}
