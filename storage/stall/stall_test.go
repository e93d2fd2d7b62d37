package stall

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"testing"
	"testing/synctest"
	"time"
)

// server answers with a body that a function writes, in fake time.
type server func(ctx context.Context, w *io.PipeWriter)

func (s server) RoundTrip(req *http.Request) (*http.Response, error) {
	r, w := io.Pipe()
	context.AfterFunc(req.Context(), func() { w.CloseWithError(req.Context().Err()) })
	go s(req.Context(), w)
	return &http.Response{StatusCode: 200, Body: r, Request: req}, nil
}

func get(t *testing.T, s http.RoundTripper, read func(io.Reader) error) error {
	t.Helper()
	req, err := http.NewRequest(http.MethodGet, "http://x/", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := Transport(s, 10*time.Second).RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return read(resp.Body)
}

// pause ends with the request, so that no server outlives its test.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

func readAll(r io.Reader) error {
	_, err := io.Copy(io.Discard, r)
	return err
}

func TestStalls(t *testing.T) {
	for name, c := range map[string]struct {
		server server
		want   error
		after  time.Duration
	}{
		"silent": {func(ctx context.Context, w *io.PipeWriter) { <-ctx.Done() }, ErrStalled, 10 * time.Second},
		"trickles": {func(ctx context.Context, w *io.PipeWriter) {
			for ctx.Err() == nil {
				w.Write([]byte{1})
				pause(ctx, time.Second)
			}
		}, ErrStalled, 10 * time.Second},
		"stops": {func(ctx context.Context, w *io.PipeWriter) {
			w.Write(make([]byte, 1<<20))
			pause(ctx, 4*time.Second)
			w.Write(make([]byte, 1<<20))
			<-ctx.Done()
		}, ErrStalled, 14 * time.Second},
		"slow but steady": {func(ctx context.Context, w *io.PipeWriter) {
			for range 20 {
				w.Write(make([]byte, minFlow))
				pause(ctx, 9*time.Second)
			}
			w.Close()
		}, nil, 180 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				err := get(t, c.server, readAll)
				if !errors.Is(err, c.want) {
					t.Errorf("got %v, want %v", err, c.want)
				}
				if took := time.Since(start); took != c.after {
					t.Errorf("took %s, want %s", took, c.after)
				}
			})
		})
	}
}

func TestSlowReaderIsNotTheServersFault(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := server(func(ctx context.Context, w *io.PipeWriter) {
			io.Copy(w, bytes.NewReader(make([]byte, 10*minFlow)))
			w.Close()
		})
		err := get(t, s, func(r io.Reader) error {
			buf := make([]byte, minFlow)
			for {
				if _, err := r.Read(buf); err != nil {
					return err
				}
				time.Sleep(time.Minute)
			}
		})
		if !errors.Is(err, io.EOF) {
			t.Errorf("got %v", err)
		}
	})
}

func TestAnEndAfterGivingUpIsNone(t *testing.T) {
	for name, want := range map[string]error{"stalled": ErrStalled, "canceled": context.Canceled} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				if errors.Is(want, context.Canceled) {
					time.AfterFunc(time.Second, cancel)
				}
				// A server that ends its body in good order when it learns that it was given up.
				rt := roundTrip(func(req *http.Request) (*http.Response, error) {
					r, w := io.Pipe()
					context.AfterFunc(req.Context(), func() { w.Close() })
					return &http.Response{StatusCode: 200, Body: r, Request: req}, nil
				})
				req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://x/", nil)
				if err != nil {
					t.Fatal(err)
				}
				resp, err := Transport(rt, 10*time.Second).RoundTrip(req)
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
				if err := readAll(resp.Body); !errors.Is(err, want) {
					t.Errorf("got %v, want %v", err, want)
				}
			})
		})
	}
}

func TestNoAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		err := get(t, roundTrip(func(req *http.Request) (*http.Response, error) {
			<-req.Context().Done()
			return nil, req.Context().Err()
		}), readAll)
		if !errors.Is(err, ErrStalled) {
			t.Errorf("got %v", err)
		}
	})
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
