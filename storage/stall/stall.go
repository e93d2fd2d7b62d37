// Package stall cancels HTTP requests whose answer does not begin or stalls. A
// deadline cannot do that for a download whose length is not known in advance. A
// limit on silence alone would let a server send one byte a minute for ever. So a
// minimum number of bytes must arrive in each period.
package stall

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

// ErrStalled is wrapped by the error of a request that was cancelled, and by the
// error of reading its answer.
var ErrStalled = errors.New("transfer stalled")

// minFlow is how many bytes must arrive within the timeout.
const minFlow = 16 << 10

// Transport returns a transport that sends requests through next and cancels those
// whose answers bring less than 16 KiB within timeout. Time in which the caller does
// not read is not counted: a slow disk on this host is not the server's fault.
func Transport(next http.RoundTripper, timeout time.Duration) http.RoundTripper {
	return &transport{next: next, timeout: timeout}
}

type transport struct {
	next    http.RoundTripper
	timeout time.Duration
}

// RoundTrip implements http.RoundTripper.
func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(req.Context())
	timer := time.AfterFunc(t.timeout, func() { cancel(ErrStalled) })
	resp, err := t.next.RoundTrip(req.WithContext(ctx))
	timer.Stop()
	if err != nil {
		err = explainStall(ctx, err, t.timeout)
		cancel(nil)
		return nil, err
	}
	resp.Body = &body{ReadCloser: resp.Body, ctx: ctx, cancel: cancel, timer: timer, timeout: t.timeout, left: t.timeout}
	return resp, nil
}

func explainStall(ctx context.Context, err error, timeout time.Duration) error {
	if errors.Is(context.Cause(ctx), ErrStalled) {
		return fmt.Errorf("%w: less than %d bytes in %s", ErrStalled, minFlow, timeout)
	}
	return err
}

// body is the body of an answer. One goroutine at a time reads it.
type body struct {
	io.ReadCloser
	ctx     context.Context // of the request, which ends with the body
	cancel  context.CancelCauseFunc
	timer   *time.Timer
	timeout time.Duration
	left    time.Duration // of the timeout, for the bytes that are due
	got     int           // bytes since the timeout began
}

// Read implements io.Reader.
func (b *body) Read(p []byte) (int, error) {
	start := time.Now()
	b.timer.Reset(b.left)
	n, err := b.ReadCloser.Read(p)
	b.timer.Stop()
	b.got += n
	if b.got >= minFlow {
		b.got, b.left = 0, b.timeout
	} else {
		b.left = max(b.left-time.Since(start), 0)
	}
	if err != nil {
		err = b.endError(err)
	}
	return n, err
}

// endError returns the error that the end of the body stands for. After the request was
// cancelled, an orderly end does not mean that the body is complete: closing a TLS
// connection informs the server before this side stops reading, so the server's orderly
// end may still arrive after only a part of the body.
func (b *body) endError(err error) error {
	if !errors.Is(err, io.EOF) {
		return explainStall(b.ctx, err, b.timeout)
	}
	if cause := context.Cause(b.ctx); cause != nil {
		return explainStall(b.ctx, fmt.Errorf("%w: %w", io.ErrUnexpectedEOF, cause), b.timeout)
	}
	return err
}

// Close implements io.Closer.
func (b *body) Close() error {
	b.timer.Stop()
	err := b.ReadCloser.Close()
	b.cancel(nil)
	return err
}
