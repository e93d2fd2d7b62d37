package firmware

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"k8s.io/apimachinery/pkg/types"

	"virtmesh/agent/host/domain"
)

const (
	machine                = "198f547c-b197-58aa-8db9-93d30584505c"
	neighbour              = "a1a8c516-77fd-5517-a3a3-d88348b23a14"
	claim        types.UID = "0f7d8a1e-0000-4000-8000-0000000000c1"
	ofNeighbours types.UID = "0f7d8a1e-0000-4000-8000-0000000000c2"
)

// tpms remembers whose state was removed, unless it fails. there is the state that it
// has, by UUID.
type tpms struct {
	removed []string
	there   map[string]bool
	fail    error
}

func (t *tpms) RemoveTPM(_ context.Context, uuid string) error {
	if t.fail != nil {
		return t.fail
	}
	t.removed = append(t.removed, uuid)
	delete(t.there, uuid)
	return nil
}

func (t *tpms) HasTPM(_ context.Context, uuid string) (bool, error) { return t.there[uuid], t.fail }

func open(t *testing.T) (*Store, *tpms) {
	t.Helper()
	tpms := &tpms{there: map[string]bool{}}
	s, err := Open(filepath.Join(t.TempDir(), "machines"), tpms)
	if err != nil {
		t.Fatal(err)
	}
	return s, tpms
}

// keepState makes room for a machine's state and writes variables there.
func keepState(t *testing.T, s *Store, machine string, claim types.UID) {
	t.Helper()
	if err := s.Keep(machine, claim); err != nil {
		t.Fatal(err)
	}
	for _, secure := range []bool{false, true} {
		if err := os.WriteFile(s.Variables(machine, secure), []byte("boot order"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func (s *Store) expectKeptFor(t *testing.T, claim types.UID, want string) {
	t.Helper()
	if got, err := s.KeptFor(claim); err != nil || got != want {
		t.Errorf("for claim %s the state of %q is kept, want %q; %v", claim, got, want, err)
	}
}

func TestStateIsRemovedWithItsClaim(t *testing.T) {
	s, tpms := open(t)
	keepState(t, s, machine, claim)
	keepState(t, s, neighbour, ofNeighbours)
	s.expectKeptFor(t, claim, machine)
	for range 2 {
		if err := s.Remove(t.Context(), claim); err != nil {
			t.Fatal(err)
		}
		s.expectKeptFor(t, claim, "")
	}
	if _, err := os.Stat(filepath.Join(s.dir, machine)); err == nil || !slices.Equal(tpms.removed, []string{domain.TPMUUID(machine)}) {
		t.Errorf("TPMs removed: %v; the machine's folder: %v", tpms.removed, err)
	}
	s.expectKeptFor(t, ofNeighbours, neighbour)
	if _, err := os.Stat(s.Variables(neighbour, false)); err != nil {
		t.Errorf("the neighbour's variables: %v", err)
	}
}

// While the domain is defined nothing is removed.
func TestNothingIsRemovedBeforeTheTPM(t *testing.T) {
	s, tpms := open(t)
	keepState(t, s, machine, claim)
	tpms.fail = errors.New("a domain has the uuid")
	if err := s.Remove(t.Context(), claim); !errors.Is(err, tpms.fail) {
		t.Errorf("error %v", err)
	}
	s.expectKeptFor(t, claim, machine)
	if _, err := os.Stat(s.Variables(machine, true)); err != nil {
		t.Error(err)
	}
}

// A claim that was removed by force and made again finds its machine's state.
func TestStateStaysForTheNextClaim(t *testing.T) {
	s, _ := open(t)
	keepState(t, s, machine, claim)
	if err := s.Keep(machine, "next"); err != nil {
		t.Fatal(err)
	}
	s.expectKeptFor(t, claim, "")
	s.expectKeptFor(t, "next", machine)
	if text, err := os.ReadFile(s.Variables(machine, true)); err != nil || string(text) != "boot order" {
		t.Errorf("the variables are %q, %v", text, err)
	}
}

func (s *Store) expectLost(t *testing.T, when string, want bool) {
	t.Helper()
	if lost, err := s.LostTPM(t.Context(), machine); err != nil || lost != want {
		t.Errorf("%s: the TPM is lost: %v, %v, want %v", when, lost, err, want)
	}
}

// Only a TPM that has run can be lost, and the record of that goes with the claim.
func TestALostTPMIsFound(t *testing.T) {
	s, tpms := open(t)
	uuid := domain.TPMUUID(machine)
	keepState(t, s, machine, claim)
	s.expectLost(t, "before the first start", false)
	if err := s.TPMStarted(t.Context(), machine); err == nil {
		t.Error("a TPM whose state nobody finds is recorded, and would be taken for lost")
	}
	s.expectLost(t, "after a start that left nothing", false)
	tpms.there[uuid] = true
	for range 2 {
		if err := s.TPMStarted(t.Context(), machine); err != nil {
			t.Fatal(err)
		}
		s.expectLost(t, "after the start", false)
	}
	again, err := Open(s.dir, tpms)
	if err != nil {
		t.Fatal(err)
	}
	delete(tpms.there, uuid)
	again.expectLost(t, "without its state", true)
	tpms.fail = errors.New("the disk cannot be read")
	if _, err := s.LostTPM(t.Context(), machine); !errors.Is(err, tpms.fail) {
		t.Errorf("error %v", err)
	}
	tpms.fail = nil
	if err := s.Remove(t.Context(), claim); err != nil {
		t.Fatal(err)
	}
	keepState(t, s, machine, claim)
	s.expectLost(t, "after the claim was deleted", false)
}

// A claim that was made again after its predecessor was removed by force begins with what
// is there.
func TestANewClaimDoesNotMissTheTPMOfTheOneBefore(t *testing.T) {
	s, tpms := open(t)
	uuid := domain.TPMUUID(machine)
	keepState(t, s, machine, claim)
	tpms.there[uuid] = true
	if err := s.TPMStarted(t.Context(), machine); err != nil {
		t.Fatal(err)
	}
	delete(tpms.there, uuid)
	keepState(t, s, machine, "next")
	s.expectLost(t, "with a new claim", false)
	tpms.there[uuid] = true
	if err := s.TPMStarted(t.Context(), machine); err != nil {
		t.Fatal(err)
	}
	delete(tpms.there, uuid)
	s.expectLost(t, "after a start for the new claim", true)
}

// A power failure may leave a folder without the name of its claim.
func TestAFolderThatWasHardlyBegunIsInNobodysWay(t *testing.T) {
	s, _ := open(t)
	if err := os.Mkdir(filepath.Join(s.dir, neighbour), 0o700); err != nil {
		t.Fatal(err)
	}
	s.expectKeptFor(t, claim, "")
	keepState(t, s, neighbour, ofNeighbours)
	info, err := os.Stat(filepath.Join(s.dir, neighbour))
	if err != nil || info.Mode().Perm() != 0o711 {
		t.Errorf("the emulator cannot pass through the folder: %v, %v", info.Mode(), err)
	}
}

func TestOnlyAUUIDNamesAMachine(t *testing.T) {
	s, _ := open(t)
	for _, bad := range []string{"", "..", "../../etc", "web"} {
		if err := s.Keep(bad, claim); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}
