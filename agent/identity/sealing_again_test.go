package identity_test

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"virtmesh/agent/fault"
	"virtmesh/agent/hostseal"
	"virtmesh/agent/hostseal/hostsealtest"
	"virtmesh/agent/identity"
	"virtmesh/agent/identity/identitytest"
	"virtmesh/agent/sealed"
)

var errBusy = errors.New("the TPM is busy")

// sealedByChip returns the first host of a mesh whose keyring a chip seals.
func sealedByChip(t *testing.T) (*identity.Identity, *hostsealtest.Chip) {
	t.Helper()
	first, chip := identitytest.NewMesh(t).First, &hostsealtest.Chip{}
	mustSeal(t, openSealed(t, first.Dir(), hostseal.Options{Chip: chip}), hostseal.KindTPM)
	return first, chip
}

func makeSecretKey(t *testing.T) sealed.PrivateKey {
	t.Helper()
	key, err := sealed.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// A TPM that does not answer for a moment at the start costs nothing: the host opens its keys as
// soon as it can, and what it is given before is beside them, whatever seals by then.
func TestKeysAreOpenedWhenTheTPMAnswersAgain(t *testing.T) {
	for _, c := range []struct {
		choice hostseal.Choice
		why    error
		want   hostseal.Kind
	}{
		{hostseal.Auto, errBusy, hostseal.KindTPM},
		{hostseal.Auto, hostseal.ErrNoChip, hostseal.KindTPM},
		{hostseal.WithTPM, errBusy, hostseal.KindTPM},
		{hostseal.WithFile, errBusy, hostseal.KindFile},
	} {
		for _, written := range []bool{false, true} {
			t.Run(string(c.choice)+", "+c.why.Error(), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					first, chip := sealedByChip(t)
					options := hostseal.Options{Choice: c.choice, Chip: chip}
					want := first.SecretKeyIDs()
					chip.Fail(c.why)
					id := openSealed(t, first.Dir(), options)
					if shut := id.Shut(); len(shut) != 2 || !strings.Contains(fault.Of(shut[0]).Remedy, "tries again") {
						t.Fatalf("told as %v", shut)
					}
					if written { // before the chip answers; refused while one that has sealed is waited for
						next := makeSecretKey(t)
						if err := id.KeepSecretKeys(next); err == nil {
							want = append(want, next.ID())
						} else if !errors.Is(err, errBusy) {
							t.Error(err)
						}
					}
					if err := id.SealKeyring(); err != nil && !errors.Is(err, errBusy) {
						t.Error(err)
					}
					chip.Fail(nil)
					time.Sleep(2 * time.Minute)
					mustSeal(t, id, c.want)
					mustHoldKeys(t, id, first.CAKey(), want)
					next := makeSecretKey(t)
					if err := id.KeepSecretKeys(next); err != nil {
						t.Fatal(err)
					}
					want = append(want, next.ID())
					again := openSealed(t, first.Dir(), options)
					mustHoldKeys(t, again, first.CAKey(), want)
					mustSeal(t, again, c.want)
					if files := keyringFiles(t, first.Dir()); len(files) != 2 || len(filesIn(t, first.Dir()+"/seal")) != 1 {
						t.Errorf("more is left than the keyring: %q", slices.Collect(maps.Keys(files)))
					}
				})
			})
		}
	}
}

// What was put aside is read again at the next start.
func TestKeysThatWerePutAsideComeBack(t *testing.T) {
	first, chip := sealedByChip(t)
	options := hostseal.Options{Chip: chip}
	chip.Fail(hostseal.ErrNoChip)
	id, next := openSealed(t, first.Dir(), options), makeSecretKey(t)
	if err := id.KeepSecretKeys(next); err != nil {
		t.Fatal(err)
	}
	chip.Fail(nil)
	mustHoldKeys(t, openSealed(t, first.Dir(), options), first.CAKey(), append(first.SecretKeyIDs(), next.ID()))
}

// Keys that are dropped leave the disk also where they were put aside, shut or not. As long as the
// host lacks keys that it is to hold, nothing goes that may be one of them.
func TestKeysThatWerePutAsideEnd(t *testing.T) {
	for what, chip := range map[string]*hostsealtest.Chip{"the chip opens them": nil, "no chip does": {}} {
		first, works := sealedByChip(t)
		if chip == nil {
			chip = works
		}
		works.Fail(hostseal.ErrNoChip)
		id := openSealed(t, first.Dir(), hostseal.Options{Chip: works})
		if err := errors.Join(id.KeepCAKey(first.CAKey()), id.KeepSecretKeys(first.SecretKeys()...)); err != nil {
			t.Fatal(err)
		}
		works.Fail(nil)
		if chip != works {
			works.Clear()
		}
		id = openSealed(t, first.Dir(), hostseal.Options{Chip: works})
		if !id.UnopenedCAKeys() || !id.UnopenedSecretKeys() {
			t.Errorf("%s: nothing was put aside: %q", what, slices.Collect(maps.Keys(keyringFiles(t, first.Dir()))))
		}
		other := identitytest.NewMesh(t).First
		pin, _ := other.HeldCA()
		next := makeSecretKey(t)
		if err := errors.Join(id.DropCAKeysBut(pin, id.HeldCAs()[0]), id.RetainSecretKeys(next.ID(), first.SecretKeyIDs()[0])); err != nil {
			t.Fatal(err)
		}
		if files := keyringFiles(t, first.Dir()); len(files) != 4 {
			t.Errorf("%s: what may hold a key is gone: %q", what, slices.Collect(maps.Keys(files)))
		}
		if err := errors.Join(id.KeepCAKey(other.CAKey()), id.DropCAKeysBut(pin), id.KeepSecretKeys(next), id.RetainSecretKeys(next.ID())); err != nil {
			t.Fatal(err)
		}
		if files := keyringFiles(t, first.Dir()); len(files) != 2 || id.UnopenedCAKeys() || id.UnopenedSecretKeys() {
			t.Errorf("%s: former keys are on the disk: %q", what, slices.Collect(maps.Keys(files)))
		}
	}
}

// hungChip is a TPM that answers when it is let go.
type hungChip struct {
	*hostsealtest.Chip
	letGo chan struct{}
}

func (h hungChip) Unwrap(wrapped []byte) ([]byte, error) {
	<-h.letGo
	return h.Chip.Unwrap(wrapped)
}

// While the TPM takes its time, everything else about the keyring goes on.
func TestNobodyWaitsForTheTPM(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first, chip := sealedByChip(t)
		hung := hungChip{chip, make(chan struct{})}
		chip.Fail(errBusy)
		go func() { hung.letGo <- struct{}{} }() // for the start, of two files
		go func() { hung.letGo <- struct{}{} }()
		id := openSealed(t, first.Dir(), hostseal.Options{Choice: hostseal.WithTPM, Chip: hung})
		chip.Fail(nil)
		ended := make(chan error, 1)
		go func() { ended <- id.SealKeyring() }()
		synctest.Wait()
		id.SecretKeys()
		id.HeldCAs()
		id.GossipKeys()
		if seal := id.Sealing(); seal.Kind != hostseal.Unsealed || len(id.Shut()) != 2 {
			t.Errorf("it is sealed with %+v", seal)
		}
		close(hung.letGo)
		if err := <-ended; err != nil {
			t.Error(err)
		}
		mustSeal(t, id, hostseal.KindTPM)
		if len(id.SecretKeyIDs()) != 1 || len(id.Shut()) > 0 {
			t.Errorf("it holds %q, cannot open %v", id.SecretKeyIDs(), id.Shut())
		}
	})
}
