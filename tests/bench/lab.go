package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

const (
	labHosts = 3
	// upTimeout bounds the start of the lab with the building of its image,
	// stepTimeout any other single step.
	upTimeout   = 5 * time.Minute
	stepTimeout = 2 * time.Minute
)

// laboratory is a running lab, driven by the real binary.
type laboratory struct {
	binary string
	dir    string
	image  string
	hosts  []*labHost
}

// runLab measures a mesh in a lab that exists for nothing else.
func runLab(ctx context.Context, o *options, r *report) (err error) {
	binary, err := install(o.binary)
	if err != nil {
		return fmt.Errorf("install %s: %w", o.binary, err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(filepath.Dir(binary))) }()
	dir, err := filepath.Abs(o.labDir)
	if err != nil {
		return fmt.Errorf("find the lab's directory: %w", err)
	}
	l := &laboratory{binary: binary, dir: dir}
	defer func() {
		// Also when the run was interrupted.
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), stepTimeout)
		defer cancel()
		_, downErr := l.lab(end, "down")
		err = errors.Join(err, downErr)
	}()
	if err := l.up(ctx); err != nil {
		return err
	}
	err = errors.Join(l.measureCreates(ctx, o.creates, r), l.measureRest(ctx, r), l.measureMemory(ctx, r))
	if err != nil {
		l.printLogs(ctx)
	}
	return err
}

// install copies the program to a directory of its own, as docs/install.md says.
// What the linker has just written is in the page cache in huge pages, and the
// kernel maps those whole: it would count nearly all of the file as memory of each
// process that runs it, 26 MB of an agent more than of a copy, or of the same file
// after the machine's next start.
func install(program string) (path string, err error) {
	from, err := os.Open(program)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, from.Close()) }()
	dir, err := os.MkdirTemp("", "vm-bench")
	if err != nil {
		return "", err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}()
	path = filepath.Join(dir, "virtmesh")
	to, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		return "", err
	}
	_, err = io.Copy(to, from)
	return path, errors.Join(err, to.Close())
}

// printLogs shows the end of each agent's log, so that a failure can be
// understood when the lab is gone.
func (l *laboratory) printLogs(ctx context.Context) {
	for _, h := range l.hosts {
		text, err := h.shell(ctx, "tail -n 40 /var/log/virtmesh/agent.log")
		if err != nil {
			text = err.Error()
		}
		progressf("=== agent of %s\n%s", h.name, text)
	}
}

// up starts a lab without a past, and puts the small guest image into it.
func (l *laboratory) up(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, upTimeout)
	defer cancel()
	if _, err := os.Stat(l.dir); err == nil {
		// What a run left that could not end well.
		if _, err := l.lab(ctx, "down"); err != nil {
			return err
		}
	}
	progressf("  starting a lab of %d hosts in %s", labHosts, l.dir)
	if _, err := l.lab(ctx, "up", "--hosts", fmt.Sprint(labHosts)); err != nil {
		return err
	}
	image, err := l.lab(ctx, "image", "tiny")
	if err != nil {
		return err
	}
	l.image = strings.TrimSpace(image)
	for i := range labHosts {
		h, err := l.connect(ctx, fmt.Sprintf("host%d", i+1))
		if err != nil {
			return err
		}
		l.hosts = append(l.hosts, h)
	}
	return nil
}

// lab runs a command of 'virtmesh lab' and returns what it prints.
func (l *laboratory) lab(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, l.binary, append([]string{"lab", "--dir", l.dir}, args...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("virtmesh lab %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return string(out), nil
}
