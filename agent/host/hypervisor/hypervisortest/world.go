package hypervisortest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"virtmesh/agent/host/hypervisor"
)

// patience bounds a test. It is long: without KVM and on a busy machine a guest takes
// its time, and no test waits for it to pass.
const patience = 2 * time.Minute

// world is one test's hypervisor and the one instance it plays with.
type world struct {
	t       *testing.T
	ctx     context.Context
	harness Harness
	hv      hypervisor.Hypervisor
	owner   hypervisor.Owner
	events  <-chan hypervisor.Event
}

func newWorld(t *testing.T, h Harness) *world {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	w := &world{t: t, ctx: ctx, harness: h, hv: h.New(t)}
	// Each test has a name of its own, so that what one leaves troubles no other.
	serial := time.Now().UnixNano()
	w.owner = hypervisor.Owner{
		Ref: hypervisor.Ref{
			Namespace: "suite", Name: fmt.Sprintf("vm-%d", serial),
			UID: fmt.Sprintf("%08x-0000-4000-8000-%012x", uint32(serial), uint64(serial)&0xffffffffffff),
		},
		Host: "host1", Epoch: 3,
	}
	w.events = w.hv.Subscribe(ctx)
	t.Cleanup(w.cleanUp)
	return w
}

// cleanUp removes the instance. It has a context of its own: the test's has ended.
func (w *world) cleanUp() {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := w.hv.Destroy(ctx, w.owner.Ref); err != nil && !errorIs(err, hypervisor.ErrNotFound) {
		w.t.Errorf("clean up: %v", err)
	}
	if err := w.hv.Undefine(ctx, w.owner.Ref, hypervisor.UndefineOptions{}); err != nil {
		w.t.Errorf("clean up: %v", err)
	}
}

func (w *world) xml() string { return w.harness.XML(w.t, w.owner) }

func (w *world) start() hypervisor.Domain {
	w.t.Helper()
	d, err := w.hv.Start(w.ctx, w.xml(), hypervisor.StartOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	return d
}

func (w *world) get() hypervisor.Domain {
	w.t.Helper()
	d, err := w.hv.Get(w.ctx, w.owner.Ref)
	if err != nil {
		w.t.Fatal(err)
	}
	return d
}

// await reads events until one of our instance fits.
func (w *world) await(what string, fits func(hypervisor.Event) bool) {
	w.t.Helper()
	var seen []hypervisor.Event
	for {
		select {
		case e, open := <-w.events:
			if !open {
				w.t.Fatalf("events ended before %s; seen: %v", what, seen)
			}
			seen = append(seen, e)
			if e.Ref == w.owner.Ref && fits(e) {
				return
			}
		case <-w.ctx.Done():
			w.t.Fatalf("no event of %s; seen: %v", what, seen)
		}
	}
}

func (w *world) awaitState(state hypervisor.State, reason hypervisor.Reason) {
	w.t.Helper()
	w.await(fmt.Sprintf("%s (%s)", state, reason), func(e hypervisor.Event) bool {
		return e.Kind == hypervisor.EventState && e.State == state && e.Reason == reason
	})
}

// terminal is a console session that waits for text.
type terminal struct {
	t      *testing.T
	ctx    context.Context
	rwc    io.ReadWriteCloser
	unread string
}

func (w *world) console() *terminal {
	w.t.Helper()
	rwc, err := w.hv.Console(w.ctx, w.owner.Ref)
	if err != nil {
		w.t.Fatal(err)
	}
	// Closing twice is allowed, and releases a reader when the test gives up.
	w.t.Cleanup(func() { _ = rwc.Close() })
	context.AfterFunc(w.ctx, func() { _ = rwc.Close() })
	return &terminal{t: w.t, ctx: w.ctx, rwc: rwc}
}

// boot starts the guest with a console on it from the first byte, and waits until it
// is up. What a guest writes while nobody listens is lost.
func (w *world) boot() *terminal {
	w.t.Helper()
	if _, err := w.hv.Start(w.ctx, w.xml(), hypervisor.StartOptions{Paused: true}); err != nil {
		w.t.Fatal(err)
	}
	console := w.console()
	if err := w.hv.Resume(w.ctx, w.owner.Ref); err != nil {
		w.t.Fatal(err)
	}
	console.await(Ready)
	return console
}

// await reads until text has come, and forgets what came before it.
func (c *terminal) await(text string) {
	c.t.Helper()
	buf := make([]byte, 256)
	for {
		if _, after, found := strings.Cut(c.unread, text); found {
			c.unread = after
			return
		}
		n, err := c.rwc.Read(buf)
		c.unread += string(buf[:n])
		if err != nil {
			c.t.Fatalf("the console ended before %q: %v; unread: %q", text, err, c.unread)
		}
	}
}

func (c *terminal) write(text string) {
	c.t.Helper()
	if _, err := io.WriteString(c.rwc, text); err != nil {
		c.t.Fatal(err)
	}
}

func errorIs(err, target error) bool { return errors.Is(err, target) }

func find(domains []hypervisor.Domain, ref hypervisor.Ref) *hypervisor.Domain {
	for i := range domains {
		if domains[i].Owner.Ref == ref {
			return &domains[i]
		}
	}
	return nil
}
