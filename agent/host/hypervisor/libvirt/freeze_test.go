package libvirt

import (
	"errors"
	"slices"
	"testing"

	"libvirt.org/go/libvirt"

	"virtmesh/agent/host/hypervisor"
)

// A guest is frozen once and thawed once, and one that does not freeze is thawed.
func TestFreezeAndThaw(t *testing.T) {
	refusal := libvirt.Error{Code: libvirt.ERR_AGENT_COMMAND_FAILED, Message: "a hook said no"}
	timeout := libvirt.Error{Code: libvirt.ERR_AGENT_COMMAND_TIMEOUT}
	for name, c := range map[string]struct {
		status            string
		statusErr, freeze error
		thaws             bool
		did               []string
		err               error
	}{
		"freezes":                {status: "thawed", did: []string{"freeze"}},
		"is frozen already":      {status: "frozen"},
		"refuses":                {status: "thawed", freeze: refusal, did: []string{"freeze", "thaw"}, err: hypervisor.ErrRefused},
		"takes too long":         {status: "thawed", freeze: timeout, did: []string{"freeze", "thaw"}, err: timeout},
		"does not know of it":    {statusErr: refusal, err: hypervisor.ErrRefused},
		"does not answer":        {statusErr: timeout, err: timeout},
		"thaws":                  {status: "frozen", thaws: true, did: []string{"thaw"}},
		"is thawed already":      {status: "thawed", thaws: true},
		"thaws without a status": {statusErr: timeout, thaws: true, did: []string{"thaw"}},
	} {
		t.Run(name, func(t *testing.T) {
			var did []string
			fs := fileSystems{
				status: func() (string, error) { return c.status, c.statusErr },
				freeze: func() error { did = append(did, "freeze"); return c.freeze },
				thaw:   func() error { did = append(did, "thaw"); return nil },
			}
			act := fs.freezeAll
			if c.thaws {
				act = fs.thawAll
			}
			if err := act(); !errors.Is(err, c.err) || !slices.Equal(did, c.did) {
				t.Errorf("did %q, %v, want %q, %v", did, err, c.did, c.err)
			}
		})
	}
}

func TestFreezeStatus(t *testing.T) {
	if status, err := freezeStatus(`{"return":"frozen"}`); status != frozen || err != nil {
		t.Errorf("%q, %v", status, err)
	}
	for _, answer := range []string{"", "frozen", `{"return":1}`, `{"return":"` + string(make([]byte, maxAgentAnswer)) + `"}`} {
		if status, err := freezeStatus(answer); err == nil {
			t.Errorf("%.20q is %q", answer, status)
		}
	}
}

// A guest that hangs while it is frozen or thawed takes one place of its lane, however often it is
// asked for again, also by those who have not waited for the end.
func TestAGuestIsFrozenAndThawedOnceAtATime(t *testing.T) {
	d := startDaemon(t)
	driver := d.open(t)
	owner := laneOwner("frozen", 1)
	if _, err := driver.Start(t.Context(), d.guestXML(t, owner), hypervisor.StartOptions{Paused: true}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { destroySoon(driver, owner.Ref) })
	end, err := driver.beginFreeze(owner.Ref)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 * cap(driver.agents.slots) {
		if err := driver.Thaw(t.Context(), owner.Ref); !errors.Is(err, hypervisor.ErrRefused) {
			t.Errorf("thaw of a guest that is busy: %v", err)
		}
		if err := driver.Freeze(t.Context(), owner.Ref); !errors.Is(err, hypervisor.ErrRefused) {
			t.Errorf("freeze of a guest that is busy: %v", err)
		}
	}
	end()
	if err := driver.Thaw(t.Context(), owner.Ref); err == nil || errors.Is(err, hypervisor.ErrRefused) {
		t.Errorf("thaw of a guest without an agent that is not busy any more: %v", err)
	}
}
