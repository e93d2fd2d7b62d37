package api

import (
	"context"
	"net/http"
	"sync"
	"time"

	genericapiserver "k8s.io/apiserver/pkg/server"
)

// drain counts running requests, and ends them when the server stops.
type drain struct {
	mu      sync.Mutex
	done    bool
	cancels map[*http.Request]context.CancelFunc // of the long-running requests
	wg      sync.WaitGroup
}

func newDrain() *drain {
	return &drain{cancels: map[*http.Request]context.CancelFunc{}}
}

// enterRequest counts a new request; it returns false if the server has stopped.
func (d *drain) enterRequest() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.done {
		return false
	}
	d.wg.Add(1)
	return true
}

// untilStop returns r with a context that also ends when the server stops. The caller
// calls the returned function at the end of the request.
func (d *drain) untilStop(r *http.Request) (*http.Request, func()) {
	ctx, cancel := context.WithCancel(r.Context())
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.done {
		cancel()
	}
	d.cancels[r] = cancel
	return r.WithContext(ctx), func() {
		d.mu.Lock()
		delete(d.cancels, r)
		d.mu.Unlock()
		cancel()
	}
}

// filter refuses requests after the server has stopped, and makes long-running requests
// end when it stops. begin, unless it is nil, gives each of these a context that also ends for
// other reasons, and a function to call at its end.
func (d *drain) filter(next http.Handler, begin func(context.Context) (context.Context, func()), c *genericapiserver.Config) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !d.enterRequest() {
			w.Header().Set("Retry-After", "1")
			http.Error(w, "the server is stopping", http.StatusServiceUnavailable)
			return
		}
		defer d.wg.Done()
		info, err := c.RequestInfoResolver.NewRequestInfo(r)
		if err == nil && c.LongRunningFunc(r, info) {
			var release func()
			r, release = d.untilStop(r)
			defer release()
			if begin != nil {
				ctx, end := begin(r.Context())
				defer end()
				r = r.WithContext(ctx)
			}
		}
		next.ServeHTTP(w, r)
	})
}

// end refuses further requests, ends the long-running ones, and waits for the others
// for at most limit.
func (d *drain) end(limit time.Duration) {
	d.mu.Lock()
	d.done = true
	for _, cancel := range d.cancels {
		cancel()
	}
	d.mu.Unlock()
	empty := make(chan struct{})
	go func() {
		d.wg.Wait()
		close(empty)
	}()
	select {
	case <-empty:
	case <-time.After(limit):
	}
}
