package importer

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"github.com/klauspost/compress/zstd"

	"virtmesh/storage/program"
	"virtmesh/storage/qemuimg"
	"virtmesh/storage/stall"
)

const (
	zstdMemory = 128 << 20
	xzMemory   = "192MiB" // more than xz -9 needs
	nobody     = 65534    // the uid and gid of a user that owns nothing
)

// unpack returns the unpacked content of src. The caller calls stop when it reads no
// more; stop returns an error if the compressed stream was not whole.
func unpack(ctx context.Context, src io.Reader) (plain io.Reader, stop func() error, err error) {
	br := bufio.NewReaderSize(src, 256<<10)
	head, err := br.Peek(6)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, nil, err
	}
	nothing := func() error { return nil }
	switch {
	case bytes.HasPrefix(head, []byte("\x1f\x8b")):
		z, err := gzip.NewReader(br)
		return z, nothing, err
	case bytes.HasPrefix(head, []byte("\x28\xb5\x2f\xfd")):
		z, err := zstd.NewReader(br, zstd.WithDecoderMaxMemory(zstdMemory), zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, nil, err
		}
		return z, func() error { z.Close(); return nil }, nil
	case bytes.HasPrefix(head, []byte("\xfd7zXZ\x00")):
		return unpackXZ(ctx, br)
	}
	return br, nothing, nil
}

// unpackXZ runs xz, which stops when its output is closed or ctx ends.
func unpackXZ(ctx context.Context, src io.Reader) (io.Reader, func() error, error) {
	if _, err := exec.LookPath("xz"); err != nil { // in the sandbox it would fail as on bad content
		return nil, nil, fmt.Errorf("unpack xz: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	var sandbox program.Sandbox
	if os.Geteuid() == 0 {
		sandbox.User = &program.User{UID: nobody, GID: nobody}
	}
	cmd := sandbox.Command(ctx, nil, "xz", "--decompress", "--stdout", "--memlimit-decompress="+xzMemory)
	read := &remember{r: src}
	cmd.Stdin = read
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		cancel()
		return nil, nil, fmt.Errorf("unpack xz: %w", err)
	}
	end := &atEOF{r: out}
	return end, func() error {
		if !end.reached {
			cancel() // the reader has stopped, so xz need not continue
		}
		err := cmd.Wait()
		cancel()
		switch {
		case !end.reached:
			return nil // the reader's error says why
		case read.err != nil:
			return read.err
		case err != nil:
			return fmt.Errorf("%w: xz: %w: %s", ErrNotAnImage, err, strings.TrimSpace(stderr.String()))
		}
		return nil
	}, nil
}

// remember keeps the source's error, because xz, which reads the source, reports only
// an error of its own. It is read after xz has ended.
type remember struct {
	r   io.Reader
	err error
}

// Read implements io.Reader.
func (r *remember) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		r.err = err
	}
	return n, err
}

// atEOF notes that everything was read.
type atEOF struct {
	r       io.Reader
	reached bool
}

// Read implements io.Reader.
func (r *atEOF) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	r.reached = r.reached || errors.Is(err, io.EOF)
	return n, err
}

// classify wraps an error in its class. An error that is neither of the source nor of
// this host arose from unpacking, and is a fault of the content.
func classify(err error) error {
	var src *sourceError
	var path *os.PathError
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	case errors.Is(err, stall.ErrStalled):
		return fmt.Errorf("%w: %w", ErrStalled, err)
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return fmt.Errorf("%w: %w", ErrNoSpace, err)
	case errors.As(err, &src):
		return fmt.Errorf("%w: %w", ErrSource, err)
	case errors.Is(err, qemuimg.ErrTooLarge):
		return fmt.Errorf("%w: %w", ErrTooLarge, err)
	case errors.As(err, &path), errors.Is(err, exec.ErrNotFound):
		return err
	}
	for _, class := range []error{ErrNotAnImage, ErrTooLarge, ErrChecksum, ErrNoSpace, ErrSource, ErrStalled, ErrInvalid} {
		if errors.Is(err, class) {
			return err
		}
	}
	return fmt.Errorf("%w: %w", ErrNotAnImage, err)
}
