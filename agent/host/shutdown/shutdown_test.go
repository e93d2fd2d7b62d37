package shutdown

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"virtmesh/agent/host/hypervisor"
	"virtmesh/agent/host/hypervisor/hypervisortest"
)

// start starts a guest on a machine of its own kind: one that does not listen, if deaf.
func start(t *testing.T, f *hypervisortest.Fake, name string, graceSeconds int64, deaf bool) hypervisor.Ref {
	t.Helper()
	owner := hypervisor.Owner{Ref: hypervisor.Ref{Namespace: "ns", Name: name, UID: "uid-" + name}, Host: "host1", Epoch: 1, GraceSeconds: graceSeconds}
	xml := fmt.Sprintf("<domain type='qemu'><name>%s</name><metadata>%s</metadata><memory unit='MiB'>64</memory><vcpu>1</vcpu></domain>", owner.DomainName(), owner.Metadata())
	if _, err := f.Start(t.Context(), xml, hypervisor.StartOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := f.Machine().SetDeaf(owner.Ref, deaf); err != nil {
		t.Fatal(err)
	}
	return owner.Ref
}

// ends collects how guests ended.
type ends struct {
	mu  sync.Mutex
	cut map[string]bool
}

func (e *ends) note(_ context.Context, guest hypervisor.Domain, powerCut bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.cut == nil {
		e.cut = map[string]bool{}
	}
	e.cut[guest.Owner.Name] = powerCut
}

func configFor(f *hypervisortest.Fake, e *ends) Config {
	return Config{Guests: f, Limit: 2 * time.Minute, AtOnce: 16, Ended: e.note, Logger: slog.New(slog.DiscardHandler)}
}

// A guest that cannot write is thawed, and shuts down. One whose agent does not do it is asked
// nevertheless.
func TestFrozenGuestsAreThawedToShutDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := hypervisortest.NewFake()
		defer f.Close()
		for _, name := range []string{"thaws", "hangs"} {
			ref := start(t, f, name, 60, false)
			err := errors.Join(f.Machine().SetAgent(ref, &hypervisor.GuestInfo{}), f.Freeze(t.Context(), ref), f.SetRecord(t.Context(), ref, "held", "yes"))
			if name == "hangs" {
				err = errors.Join(err, f.Machine().SetAgent(ref, nil))
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		e := &ends{}
		cfg := configFor(f, e)
		cfg.Frozen = func(guest hypervisor.Domain) bool { return guest.Records["held"] != "" }
		if err := Run(t.Context(), cfg); err != nil {
			t.Fatal(err)
		}
		if e.cut["thaws"] || !e.cut["hangs"] {
			t.Errorf("power cut: %v", e.cut)
		}
	})
}

// Each guest gets its own time, one that does not use it loses its power, and what is not ours
// goes on.
func TestGuestsShutDownInTheirTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := hypervisortest.NewFake()
		defer f.Close()
		f.Machine().DefineForeign("another")
		start(t, f, "obeys", 60, false)
		start(t, f, "hangs", 60, true)
		start(t, f, "none", -1, false)
		paused := start(t, f, "paused", 60, false)
		if err := f.Machine().Pause(paused, hypervisor.ReasonUser); err != nil {
			t.Fatal(err)
		}
		e := &ends{}
		began := time.Now()
		if err := Run(t.Context(), configFor(f, e)); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took < 60*time.Second || took > 61*time.Second {
			t.Errorf("it took %v, and the guest that hangs has a minute", took)
		}
		for name, want := range map[string]bool{"obeys": false, "hangs": true, "none": true, "paused": false} {
			if cut, ended := e.cut[name]; !ended || cut != want {
				t.Errorf("%s: ended %v, power cut %v, want %v", name, ended, cut, want)
			}
		}
		domains, err := f.List(t.Context())
		if err != nil || len(domains) != 4 {
			t.Fatalf("%d definitions are left, %v", len(domains), err)
		}
		for _, d := range domains {
			if d.State.Active() {
				t.Errorf("%s is %s", d.Owner.Ref, d.State)
			}
		}
		if !f.Machine().Has("another") {
			t.Error("the domain of somebody else is gone")
		}
	})
}

// A guest that an earlier version started, whose domain says no time, has that of all.
func TestAGuestOfAnEarlierVersionHasTheTimeOfAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := hypervisortest.NewFake()
		defer f.Close()
		start(t, f, "old", 0, true)
		e := &ends{}
		began := time.Now()
		if err := Run(t.Context(), configFor(f, e)); err != nil || !e.cut["old"] {
			t.Errorf("%v, ended are %v", err, e.cut)
		}
		if took := time.Since(began); took < 2*time.Minute || took > 2*time.Minute+time.Second {
			t.Errorf("it took %v of two minutes", took)
		}
	})
}

// silent is a hypervisor whose calls of one method never return by themselves.
type silent struct {
	*hypervisortest.Fake
	method string
}

func (s silent) List(ctx context.Context) ([]hypervisor.Domain, error) {
	if s.method == "List" {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return s.Fake.List(ctx)
}

func (s silent) Destroy(ctx context.Context, ref hypervisor.Ref) error {
	if s.method == "Destroy" {
		<-ctx.Done()
		return ctx.Err()
	}
	return s.Fake.Destroy(ctx, ref)
}

// A call that never returns is given up, so that it can be made again: an expelled host tries
// for as long as guests are left.
func TestACallThatHangsIsGivenUp(t *testing.T) {
	for _, method := range []string{"List", "Destroy"} {
		synctest.Test(t, func(t *testing.T) {
			f := hypervisortest.NewFake()
			defer f.Close()
			start(t, f, "stays", 10, true)
			cfg := configFor(f, &ends{})
			cfg.Guests = silent{f, method}
			ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
			defer cancel()
			began := time.Now()
			err := Run(ctx, cfg)
			if took := time.Since(began); !errors.Is(err, context.DeadlineExceeded) || took > 2*time.Minute {
				t.Errorf("%s: after %v: %v", method, took, err)
			}
		})
	}
}

// The whole never takes longer than its limit, however many guests hang and however few are
// asked at once.
func TestTheLimitHoldsForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := hypervisortest.NewFake()
		defer f.Close()
		for i := range 9 {
			start(t, f, fmt.Sprint("vm", i), 3600, true)
		}
		e := &ends{}
		cfg := configFor(f, e)
		cfg.Limit, cfg.AtOnce = 90*time.Second, 2
		began := time.Now()
		if err := Run(t.Context(), cfg); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took < 90*time.Second || took > 92*time.Second {
			t.Errorf("it took %v", took)
		}
		if len(e.cut) != 9 {
			t.Errorf("ended are %v", e.cut)
		}
	})
}

// A guest that cannot be ended is reported, after the others have ended.
func TestAGuestThatStaysIsAnError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := hypervisortest.NewFake()
		defer f.Close()
		start(t, f, "stays", 10, true)
		start(t, f, "obeys", 10, false)
		busy := errors.New("the daemon is busy")
		f.Machine().Fail("Destroy", busy)
		e := &ends{}
		if err := Run(t.Context(), configFor(f, e)); !errors.Is(err, busy) {
			t.Errorf("the error is %v", err)
		}
		if cut, ended := e.cut["obeys"]; !ended || cut {
			t.Errorf("ended are %v", e.cut)
		}
		if err := Run(t.Context(), configFor(f, e)); err != nil || !e.cut["stays"] {
			t.Errorf("again: %v, ended are %v", err, e.cut)
		}
	})
}

// A hypervisor that is away ends nothing, and says so.
func TestWithoutAHypervisorNothingEnds(t *testing.T) {
	f := hypervisortest.NewFake()
	defer f.Close()
	f.Machine().SetAway(true)
	if err := Run(t.Context(), configFor(f, &ends{})); !errors.Is(err, hypervisor.ErrUnavailable) {
		t.Errorf("the error is %v", err)
	}
}
