package hypervisor

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

// TestElementIsTheOwner: what is written into a domain that is there reads as what was
// written when it was defined.
func TestElementIsTheOwner(t *testing.T) {
	owner := Owner{Ref: Ref{Namespace: "ns", Name: "a<b>&'\"", UID: "u"}, Host: "host-1", Epoch: 1<<63 + 7}
	text, err := owner.Element()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := ParseMetadata(text); err != nil || got != owner {
		t.Errorf("element %s reads as %+v, %v", text, got, err)
	}
	if strings.Contains(text, "xmlns") || strings.Contains(text, MetadataPrefix) {
		t.Errorf("the element names its name space, which the hypervisor does again: %s", text)
	}
	if got, ok, err := OwnerOf("<domain><metadata>" + owner.Metadata() + "</metadata></domain>"); err != nil || !ok || got != owner {
		t.Errorf("metadata reads as %+v, %v, %v", got, ok, err)
	}
}

func TestFaultSaysWhatIsWrongAndWhatToDo(t *testing.T) {
	raw := errors.New("virError(...)")
	fault := &Fault{Code: FaultDiskLocked, Sentence: "the disk is in use", Remedy: "stop the other machine", Sentinel: ErrInvalid, Cause: raw}
	err := fmt.Errorf("start ns/vm: %w", fault)
	if got := err.Error(); got != "start ns/vm: the disk is in use: stop the other machine" {
		t.Errorf("it says %q", got)
	}
	for _, target := range []error{ErrInvalid, raw} {
		if !errors.Is(err, target) {
			t.Errorf("it is not %v", target)
		}
	}
	if errors.Is(err, ErrNotFound) {
		t.Error("it is what it is not")
	}
	var found *Fault
	if !errors.As(err, &found) || found.Code != FaultDiskLocked {
		t.Errorf("found %+v", found)
	}
	bare := &Fault{Code: FaultOther, Sentence: "something"}
	if bare.Error() != "something" || len(bare.Unwrap()) != 0 {
		t.Errorf("a bare fault says %q and wraps %v", bare, bare.Unwrap())
	}
}

func TestMachinesAreFoundByAlias(t *testing.T) {
	c := Capabilities{Machines: []MachineType{
		{Name: "pc-q35-7.2", Canonical: "pc-q35-7.2", MaxVCPUs: 288},
		{Name: "q35", Canonical: "pc-q35-7.2", MaxVCPUs: 288},
		{Name: "pc-i440fx-2.0", Canonical: "pc-i440fx-2.0", MaxVCPUs: 255, Deprecated: true},
	}}
	if m, ok := c.Machine("q35"); !ok || m.Canonical != "pc-q35-7.2" || m.MaxVCPUs != 288 {
		t.Errorf("q35 is %+v, %v", m, ok)
	}
	if m, ok := c.Machine("pc-i440fx-2.0"); !ok || !m.Deprecated {
		t.Errorf("the old machine is %+v, %v", m, ok)
	}
	if m, ok := c.Machine("virt"); ok || m != (MachineType{}) {
		t.Errorf("a machine that is not there is %+v", m)
	}
	if got := strings.Join(c.MachineTypes(), " "); got != "pc-q35-7.2 q35 pc-i440fx-2.0" {
		t.Errorf("names %s", got)
	}
}

func TestStatesAndReasons(t *testing.T) {
	for state, active := range map[State]bool{
		StateUnknown: true, StateRunning: true, StatePaused: true, StateShuttingDown: true,
		StateShutoff: false, StateCrashed: true, StateSuspended: true,
	} {
		if state.Active() != active {
			t.Errorf("%s: active %v", state, !active)
		}
	}
	good := map[Reason]bool{ReasonShutdown: true, ReasonSaved: true}
	for _, reason := range []Reason{
		ReasonUnknown, ReasonShutdown, ReasonSaved, ReasonDestroyed, ReasonCrashed, ReasonFailed, ReasonMissed, ReasonMigrated,
	} {
		if reason.Success() != good[reason] {
			t.Errorf("%s: success %v", reason, reason.Success())
		}
	}
	if got := (Ref{Namespace: "n", Name: "vm"}).DomainName(); got != "n_vm" {
		t.Errorf("domain name %s", got)
	}
}
