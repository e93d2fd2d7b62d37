package hostseal_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"virtmesh/agent/hostseal"
	"virtmesh/agent/hostseal/hostsealtest"
)

var secret = []byte("-----BEGIN PRIVATE KEY-----\nthe key of the mesh\n-----END PRIVATE KEY-----\n")

func begin(t *testing.T, dir string, options hostseal.Options) *hostseal.Seals {
	t.Helper()
	seals := hostseal.Open(dir, options)
	if err := seals.Begin(); err != nil {
		t.Fatal(err)
	}
	return seals
}

func seal(t *testing.T, seals *hostseal.Seals, name string) []byte {
	t.Helper()
	content, err := seals.Seal(name, secret)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

func TestWhatProtectsTheSealingKey(t *testing.T) {
	works, owned, none := &hostsealtest.Chip{}, &hostsealtest.Chip{}, &hostsealtest.Chip{}
	owned.Fail(errors.New("the owner hierarchy has a password"))
	none.Fail(hostseal.ErrNoChip)
	for name, c := range map[string]struct {
		options hostseal.Options
		want    hostseal.Kind
		// noTPM reports whether the host says why no TPM is used, fails whether it does not seal.
		noTPM, fails bool
	}{
		"nothing was chosen":    {options: hostseal.Options{Chip: works}, want: hostseal.KindTPM},
		"auto, a TPM":           {options: hostseal.Options{Choice: hostseal.Auto, Chip: works}, want: hostseal.KindTPM},
		"auto, no TPM":          {options: hostseal.Options{Choice: hostseal.Auto, Chip: none}, want: hostseal.KindFile, noTPM: true},
		"auto, none known":      {options: hostseal.Options{}, want: hostseal.KindFile, noTPM: true},
		"auto, it refuses":      {options: hostseal.Options{Chip: owned}, want: hostseal.KindFile, noTPM: true},
		"a file, a TPM":         {options: hostseal.Options{Choice: hostseal.WithFile, Chip: works}, want: hostseal.KindFile},
		"the TPM, it is there":  {options: hostseal.Options{Choice: hostseal.WithTPM, Chip: works}, want: hostseal.KindTPM},
		"the TPM, there is no":  {options: hostseal.Options{Choice: hostseal.WithTPM, Chip: none}, noTPM: true, fails: true},
		"the TPM, it refuses":   {options: hostseal.Options{Choice: hostseal.WithTPM, Chip: owned}, noTPM: true, fails: true},
		"the TPM, none is here": {options: hostseal.Options{Choice: hostseal.WithTPM}, noTPM: true, fails: true},
	} {
		seals := hostseal.Open(t.TempDir(), c.options)
		err := seals.Begin()
		if state := seals.State(); (err != nil) != c.fails || state.Kind != c.want || (state.NoTPM != nil) != c.noTPM {
			t.Errorf("%s: %+v, %v", name, state, err)
		}
		if _, err := seals.Seal("ca.key", secret); (err != nil) != c.fails {
			t.Errorf("%s: seal: %v", name, err)
		}
	}
}

func TestASealedFileOpensOnItsHostUnderItsNameOnly(t *testing.T) {
	for _, choice := range []hostseal.Choice{hostseal.WithFile, hostseal.WithTPM} {
		dir, options := t.TempDir(), hostseal.Options{Choice: choice, Chip: &hostsealtest.Chip{}}
		content := seal(t, begin(t, dir, options), "ca.key")
		if bytes.Contains(content, secret) {
			t.Errorf("%s: the content is in clear", choice)
		}
		again := hostseal.Open(dir, options) // the agent was started again
		if got, err := again.Unseal("ca.key", content); err != nil || !bytes.Equal(got, secret) {
			t.Errorf("%s: opened as %q, %v", choice, got, err)
		}
		if got, err := again.Unseal("secret.keys", content); !errors.Is(err, hostseal.ErrShut) {
			t.Errorf("%s: under another name: %q, %v", choice, got, err)
		}
		elsewhere := begin(t, t.TempDir(), options)
		if got, err := elsewhere.Unseal("ca.key", content); !errors.Is(err, hostseal.ErrShut) {
			t.Errorf("%s: with the key of another directory: %q, %v", choice, got, err)
		}
		if err := hostseal.Remove(dir); err != nil {
			t.Fatal(err)
		}
		if begun, err := hostseal.Open(dir, options).Begun(); err != nil || begun {
			t.Errorf("%s: after Remove there are keys: %v, %v", choice, begun, err)
		}
	}
}

// A disk in another machine: what is on it does not hold the secret.
func TestADiskWithoutItsTPMHoldsNoSecret(t *testing.T) {
	dir, chip := t.TempDir(), &hostsealtest.Chip{}
	content := seal(t, begin(t, dir, hostseal.Options{Chip: chip}), "ca.key")
	for what, options := range map[string]hostseal.Options{
		"another TPM": {Chip: &hostsealtest.Chip{}}, "no TPM": {}, "no TPM, and a file is wanted": {Choice: hostseal.WithFile},
	} {
		thief := begin(t, dir, options)
		if got, err := thief.Unseal("ca.key", content); !errors.Is(err, hostseal.ErrShut) {
			t.Errorf("%s: %q, %v", what, got, err)
		}
		// It seals all the same, with a key of its own.
		if got, err := thief.Unseal("ca.key", seal(t, thief, "ca.key")); err != nil || !bytes.Equal(got, secret) {
			t.Errorf("%s: its own: %q, %v", what, got, err)
		}
	}
	// In its own machine again it opens, and the TPM seals again.
	home := begin(t, dir, hostseal.Options{Chip: chip})
	if got, err := home.Unseal("ca.key", content); err != nil || !bytes.Equal(got, secret) || home.State().Kind != hostseal.KindTPM {
		t.Errorf("at home: %q, %v, %+v", got, err, home.State())
	}
}

func TestAClearedTPMIsToldFromAMissingOne(t *testing.T) {
	dir, chip := t.TempDir(), &hostsealtest.Chip{}
	content := seal(t, begin(t, dir, hostseal.Options{Chip: chip}), "ca.key")
	chip.Fail(hostseal.ErrNoChip)
	if _, err := hostseal.Open(dir, hostseal.Options{Chip: chip}).Unseal("ca.key", content); !errors.Is(err, hostseal.ErrNoChip) {
		t.Errorf("without the TPM: %v", err)
	}
	chip.Fail(nil)
	chip.Clear()
	if _, err := hostseal.Open(dir, hostseal.Options{Chip: chip}).Unseal("ca.key", content); !errors.Is(err, hostseal.ErrOtherChip) {
		t.Errorf("after it was cleared: %v", err)
	}
}

func TestSealingKeysStayAsLongAsTheyAreNeeded(t *testing.T) {
	dir, chip := t.TempDir(), &hostsealtest.Chip{}
	first := begin(t, dir, hostseal.Options{Choice: hostseal.WithFile})
	content := seal(t, first, "ca.key")
	with, _ := hostseal.SealedWith(content)
	second := begin(t, dir, hostseal.Options{Chip: chip})
	if err := second.DropBut([]string{with}); err != nil {
		t.Fatal(err)
	}
	if _, err := hostseal.Open(dir, hostseal.Options{}).Unseal("ca.key", content); err != nil {
		t.Errorf("a key that was needed is gone: %v", err)
	}
	if err := second.DropBut(nil); err != nil {
		t.Fatal(err)
	}
	if got, err := second.Unseal("ca.key", content); !errors.Is(err, hostseal.ErrShut) {
		t.Errorf("with a key that was dropped: %q, %v", got, err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "seal", "*.key"))
	if err != nil || len(files) > 0 {
		t.Errorf("%q are left, %v", files, err)
	}
	if got, err := second.Unseal("ca.key", seal(t, second, "ca.key")); err != nil || !bytes.Equal(got, secret) {
		t.Errorf("the key that seals: %q, %v", got, err)
	}
}

func TestSealingKeysAreRootsAlone(t *testing.T) {
	dir := t.TempDir()
	begin(t, dir, hostseal.Options{})
	for at, want := range map[string]os.FileMode{"seal": 0o700, "seal/*.key": 0o600} {
		found, err := filepath.Glob(filepath.Join(dir, at))
		if err != nil || len(found) != 1 {
			t.Fatalf("%s: %q, %v", at, found, err)
		}
		if info, err := os.Stat(found[0]); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s has the mode %v, %v", found[0], info.Mode(), err)
		}
	}
}

func TestDamagedSealingKeysAndFilesAreErrors(t *testing.T) {
	dir := t.TempDir()
	seals := begin(t, dir, hostseal.Options{})
	content := seal(t, seals, "ca.key")
	changed := bytes.Replace(content, []byte("\n\n"), []byte("\n\nAAAA"), 1)
	if got, err := seals.Unseal("ca.key", changed); err == nil {
		t.Errorf("a changed file opens as %q", got)
	}
	files, err := filepath.Glob(filepath.Join(dir, "seal", "*.key"))
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	for _, damaged := range []string{"", "AAAA\n", "not base64!"} {
		if err := os.WriteFile(files[0], []byte(damaged), 0o600); err != nil {
			t.Fatal(err)
		}
		again := begin(t, dir, hostseal.Options{})
		if got, err := again.Unseal("ca.key", content); !errors.Is(err, hostseal.ErrShut) {
			t.Errorf("with the damaged key %q: %q, %v", damaged, got, err)
		}
		if got, err := again.Unseal("ca.key", seal(t, again, "ca.key")); err != nil || !bytes.Equal(got, secret) {
			t.Errorf("beside the damaged key %q: %q, %v", damaged, got, err)
		}
	}
}

// A TPM that has sealed before is waited for; then a file seals, and the TPM again once it opens
// something.
func TestATPMInTroubleIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir, chip := t.TempDir(), &hostsealtest.Chip{}
		content := seal(t, begin(t, dir, hostseal.Options{Chip: chip}), "ca.key")
		busy := errors.New("busy")
		chip.Fail(busy)
		seals := hostseal.Open(dir, hostseal.Options{Chip: chip})
		for range 9 {
			if err := seals.Begin(); !errors.Is(err, busy) {
				t.Fatalf("begun: %v", err)
			}
			if _, err := seals.Seal("ca.key", secret); !errors.Is(err, busy) {
				t.Errorf("sealed: %v", err)
			}
			time.Sleep(time.Minute)
		}
		time.Sleep(2 * time.Minute)
		if err := seals.Begin(); err != nil || seals.State() != (hostseal.State{Kind: hostseal.KindFile, NoTPM: busy, FellBack: true}) {
			t.Errorf("after a while: %+v, %v", seals.State(), err)
		}
		if _, err := seals.Unseal("ca.key", content); !hostseal.MayPass(err) {
			t.Errorf("told as final: %v", err)
		}
		chip.Fail(nil)
		if _, err := seals.Unseal("ca.key", content); err != nil || seals.State() != (hostseal.State{Kind: hostseal.KindTPM}) {
			t.Errorf("when it answers: %+v, %v", seals.State(), err)
		}
		chip.Clear()
		if _, err := hostseal.Open(dir, hostseal.Options{Chip: chip}).Unseal("ca.key", content); err == nil || hostseal.MayPass(err) {
			t.Errorf("after it was cleared: %v", err)
		}
	})
}
