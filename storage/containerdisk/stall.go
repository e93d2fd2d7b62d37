package containerdisk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

// minFlow is how many bytes must arrive within the stall timeout. A limit on
// silence alone would let a registry send a byte a minute for ever.
const minFlow = 16 << 10

// stallTransport ends requests whose answer does not come or stops coming. Time
// in which the caller does not read is not counted: a slow disk here is not the
// registry's fault.
type stallTransport struct {
	next    http.RoundTripper
	timeout time.Duration
}

var _ http.RoundTripper = (*stallTransport)(nil)

// RoundTrip implements http.RoundTripper.
func (t *stallTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(req.Context())
	timer := time.AfterFunc(t.timeout, func() { cancel(ErrRegistryTimeout) })
	resp, err := t.next.RoundTrip(req.WithContext(ctx))
	timer.Stop()
	if err != nil {
		err = stalled(ctx, err, t.timeout)
		cancel(nil)
		return nil, err
	}
	resp.Body = &stallBody{ReadCloser: resp.Body, ctx: ctx, cancel: cancel, timer: timer, timeout: t.timeout, left: t.timeout}
	return resp, nil
}

func stalled(ctx context.Context, err error, timeout time.Duration) error {
	if errors.Is(context.Cause(ctx), ErrRegistryTimeout) {
		return fmt.Errorf("%w: less than %d bytes in %s", ErrRegistryTimeout, minFlow, timeout)
	}
	return err
}

// stallBody is read by one goroutine at a time, as bodies are.
type stallBody struct {
	io.ReadCloser
	ctx     context.Context // of the request, which ends with the body
	cancel  context.CancelCauseFunc
	timer   *time.Timer
	timeout time.Duration
	left    time.Duration // of the timeout, for the bytes that are due
	got     int           // bytes since the timeout began
}

// Read implements io.Reader.
func (b *stallBody) Read(p []byte) (int, error) {
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
	if err != nil && !errors.Is(err, io.EOF) {
		err = stalled(b.ctx, err, b.timeout)
	}
	return n, err
}

// Close implements io.Closer.
func (b *stallBody) Close() error {
	b.timer.Stop()
	err := b.ReadCloser.Close()
	b.cancel(nil)
	return err
}
