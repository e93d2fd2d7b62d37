package host

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"virtmesh/agent/host/hypervisor"
	"virtmesh/agent/host/hypervisor/hypervisortest"
)

func startedGuest(t *testing.T, f *hypervisortest.Fake, name string, deaf bool) hypervisor.Ref {
	t.Helper()
	owner := hypervisor.Owner{Ref: hypervisor.Ref{Namespace: "ns", Name: name, UID: "uid-" + name}, Host: "host1", Epoch: 1, GraceSeconds: 600}
	xml := fmt.Sprintf("<domain type='qemu'><name>%s</name><metadata>%s</metadata><memory unit='MiB'>64</memory><vcpu>1</vcpu></domain>", owner.DomainName(), owner.Metadata())
	if _, err := f.Start(t.Context(), xml, hypervisor.StartOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := f.Machine().SetDeaf(owner.Ref, deaf); err != nil {
		t.Fatal(err)
	}
	return owner.Ref
}

// What ends with the host is recorded with the domain, how it ended before is not changed, and
// what fails is tried again within the host's time.
func TestGuestsEndWithTheirHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := hypervisortest.NewFake()
		defer f.Close()
		obeys, hangs, ended := startedGuest(t, f, "obeys", false), startedGuest(t, f, "hangs", true), startedGuest(t, f, "ended", false)
		if err := f.SetRecord(t.Context(), ended, "end", `{"phase":"Succeeded"}`); err != nil {
			t.Fatal(err)
		}
		f.Machine().Fail("Destroy", errors.New("the daemon is busy"))
		began := time.Now()
		if err := endWithHost(t.Context(), f, time.Minute, slog.New(slog.DiscardHandler)); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took < time.Minute || took > time.Minute+5*time.Second {
			t.Errorf("it took %v", took)
		}
		for ref, want := range map[hypervisor.Ref]string{obeys: "shut down with its host", hangs: "its power was cut", ended: `{"phase":"Succeeded"}`} {
			domain, err := f.Get(t.Context(), ref)
			if err != nil || domain.State.Active() || !strings.Contains(domain.Records["end"], want) {
				t.Errorf("%s is %s with %v, %v; want %q", ref, domain.State, domain.Records, err, want)
			}
		}
	})
}

// A hypervisor that is away does not hold the host's shutdown up for long.
func TestAShutdownDoesNotWaitForAHypervisorThatIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := hypervisortest.NewFake()
		defer f.Close()
		f.Machine().SetAway(true)
		began := time.Now()
		err := endWithHost(t.Context(), f, time.Hour, slog.New(slog.DiscardHandler))
		if took := time.Since(began); !errors.Is(err, hypervisor.ErrUnavailable) || took > time.Minute {
			t.Errorf("it ends after %v with %v", took, err)
		}
	})
}
