package identity_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"virtmesh/agent/fault"
	"virtmesh/agent/hostseal"
	"virtmesh/agent/hostseal/hostsealtest"
	"virtmesh/agent/identity"
	"virtmesh/agent/identity/identitytest"
	"virtmesh/agent/sealed"
)

// openSealed opens an identity as the agent does that seals with a chip.
func openSealed(t *testing.T, dir string, options hostseal.Options) *identity.Identity {
	t.Helper()
	id, err := identity.OpenSealed(dir, hostseal.Open(dir, options))
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func mustSeal(t *testing.T, id *identity.Identity, want hostseal.Kind) {
	t.Helper()
	if err := id.SealKeyring(); err != nil {
		t.Fatal(err)
	}
	if got := id.Sealing().Kind; got != want {
		t.Errorf("sealed with %q, want %q", got, want)
	}
}

// keyringFiles returns the files of a host's keyring, by name.
func keyringFiles(t *testing.T, dir string) map[string]string {
	t.Helper()
	found := map[string]string{}
	for _, pattern := range []string{"ca.key*", "secret.keys*"} {
		paths, err := filepath.Glob(filepath.Join(dir, "identity", pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range paths {
			content, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			found[filepath.Base(path)] = string(content)
		}
	}
	return found
}

// clearFiles returns the files of a host's keyring that are in clear.
func clearFiles(t *testing.T, dir string) (names []string) {
	t.Helper()
	for name, content := range keyringFiles(t, dir) {
		if _, sealed := hostseal.SealedWith([]byte(content)); !sealed {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func mustHoldKeys(t *testing.T, id *identity.Identity, caKey []byte, secrets []string) {
	t.Helper()
	if !bytes.Equal(id.CAKey(), caKey) || !slices.Equal(id.SecretKeyIDs(), secrets) {
		t.Errorf("the host holds the CA's key: %t, and the keys for Secrets %q, want %q", bytes.Equal(id.CAKey(), caKey), id.SecretKeyIDs(), secrets)
	}
	if shut := id.Shut(); len(shut) > 0 {
		t.Errorf("the host says that it cannot open %v", shut)
	}
}

// What an earlier version has left in clear stays so that it can still read it, until the agent
// seals; then the disk does not show the keys, and the host has them all the same.
func TestTheKeyringIsSealed(t *testing.T) {
	for _, c := range []struct {
		choice hostseal.Choice
		want   hostseal.Kind
	}{{hostseal.WithFile, hostseal.KindFile}, {hostseal.Auto, hostseal.KindTPM}} {
		options := hostseal.Options{Choice: c.choice, Chip: &hostsealtest.Chip{}}
		first := identitytest.NewMesh(t).First
		dir, caKey, secrets := first.Dir(), first.CAKey(), first.SecretKeyIDs()
		next, err := sealed.NewKey()
		if err != nil {
			t.Fatal(err)
		}
		id := openSealed(t, dir, options)
		if err := id.KeepSecretKeys(next); err != nil {
			t.Fatal(err)
		}
		secrets = append(secrets, next.ID())
		if open := clearFiles(t, dir); len(open) != 2 {
			t.Errorf("%s: before the agent seals, %q are in clear", c.choice, open)
		}
		mustSeal(t, id, c.want)
		if open := clearFiles(t, dir); len(open) > 0 {
			t.Errorf("%s: %q are in clear", c.choice, open)
		}
		mustHoldKeys(t, openSealed(t, dir, options), caKey, secrets)

		// What is written from then on is sealed, too.
		again := openSealed(t, dir, options)
		if err := errors.Join(again.DropCAKey(), again.KeepCAKey(caKey), again.RetainSecretKeys(next.ID())); err != nil {
			t.Fatal(err)
		}
		if open := clearFiles(t, dir); len(open) > 0 {
			t.Errorf("%s: %q are in clear after a change", c.choice, open)
		}
		mustHoldKeys(t, openSealed(t, dir, options), caKey, []string{next.ID()})
		if err := identity.RemoveState(dir); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(filepath.Join(dir, "seal")); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: the sealing keys are left behind: %v", c.choice, err)
		}
	}
}

// A host whose TPM was cleared starts, says what it cannot open, and deletes nothing. It gets
// the keys again, and its former files are put aside.
func TestAHostWhoseTPMWasCleared(t *testing.T) {
	first := identitytest.NewMesh(t).First
	dir, caKey, secrets := first.Dir(), first.CAKey(), first.SecretKeys()
	chip := &hostsealtest.Chip{}
	options := hostseal.Options{Chip: chip}
	mustSeal(t, openSealed(t, dir, options), hostseal.KindTPM)
	before := keyringFiles(t, dir)
	chip.Clear()

	id := openSealed(t, dir, options)
	mustSeal(t, id, hostseal.KindTPM)
	shut := id.Shut()
	if len(id.CAKey()) > 0 || len(id.SecretKeys()) > 0 || len(shut) != 2 {
		t.Fatalf("holds the CA's key: %t, keys for Secrets %q; says %v", len(id.CAKey()) > 0, id.SecretKeyIDs(), shut)
	}
	for _, err := range shut {
		if !errors.Is(err, fault.Unavailable) || !errors.Is(err, hostseal.ErrOtherChip) || !strings.Contains(fault.Of(err).Remedy, "recovery bundle") {
			t.Errorf("told as %v", err)
		}
	}
	if after := keyringFiles(t, dir); !sameFiles(before, after) {
		t.Errorf("files before %q, after %q", before, after)
	}
	// Another voter hands them out.
	if err := errors.Join(id.KeepCAKey(caKey), id.KeepSecretKeys(secrets...)); err != nil {
		t.Fatal(err)
	}
	again := openSealed(t, dir, options)
	mustSeal(t, again, hostseal.KindTPM)
	mustHoldKeys(t, again, caKey, first.SecretKeyIDs())
	after := keyringFiles(t, dir)
	aside := 0
	for name, content := range after {
		if strings.Contains(name, ".unopened-") && (content == before["ca.key"] || content == before["secret.keys"]) {
			aside++
		}
	}
	if aside != 2 || len(after) != 4 || len(clearFiles(t, dir)) > 0 {
		t.Errorf("%d files were put aside of %q", aside, after)
	}
	// Keys that end on this host end in every form.
	if err := errors.Join(again.DropCAKey(), again.RetainSecretKeys()); err != nil {
		t.Fatal(err)
	}
	if left := keyringFiles(t, dir); len(left) > 0 {
		t.Errorf("%q are left", left)
	}
}

func sameFiles(a, b map[string]string) bool {
	if len(a) != len(b) {
		return false
	}
	for name, content := range a {
		if b[name] != content {
			return false
		}
	}
	return true
}

// A TPM that was only switched off is there again: so are the keys.
func TestAHostWhoseTPMComesBack(t *testing.T) {
	first := identitytest.NewMesh(t).First
	dir, caKey := first.Dir(), first.CAKey()
	chip := &hostsealtest.Chip{}
	options := hostseal.Options{Choice: hostseal.Auto, Chip: chip}
	mustSeal(t, openSealed(t, dir, options), hostseal.KindTPM)
	chip.Fail(hostseal.ErrNoChip)
	off := openSealed(t, dir, options)
	if err := off.SealKeyring(); err != nil || len(off.Shut()) != 2 || len(off.CAKey()) > 0 {
		t.Errorf("without the TPM: %v, cannot open %v", err, off.Shut())
	}
	if remedy := fault.Of(off.Shut()[0]).Remedy; !strings.Contains(remedy, "switch the TPM on") {
		t.Errorf("the remedy is %q", remedy)
	}
	chip.Fail(nil)
	back := openSealed(t, dir, options)
	mustSeal(t, back, hostseal.KindTPM)
	mustHoldKeys(t, back, caKey, first.SecretKeyIDs())
	keys, err := os.ReadDir(filepath.Join(dir, "seal"))
	if err != nil || len(keys) != 1 {
		t.Errorf("%d sealing keys are left, %v; one seals", len(keys), err)
	}
}

// With another choice everything is sealed anew, and the former sealing key goes; a power loss in
// between loses nothing.
func TestAnotherChoiceSealsAnew(t *testing.T) {
	first := identitytest.NewMesh(t).First
	dir, caKey := first.Dir(), first.CAKey()
	chip := &hostsealtest.Chip{}
	mustSeal(t, openSealed(t, dir, hostseal.Options{Choice: hostseal.WithFile, Chip: chip}), hostseal.KindFile)
	withFile, err := os.ReadFile(filepath.Join(dir, "identity", "ca.key"))
	if err != nil {
		t.Fatal(err)
	}
	sealingKeys := filesIn(t, filepath.Join(dir, "seal"))

	mustSeal(t, openSealed(t, dir, hostseal.Options{Choice: hostseal.WithTPM, Chip: chip}), hostseal.KindTPM)
	for name := range filesIn(t, filepath.Join(dir, "seal")) {
		if sealingKeys[name] != "" {
			t.Errorf("the sealing key in %s is still there", name)
		}
	}
	// As after a power loss between the two files.
	for name, content := range sealingKeys {
		if err := os.WriteFile(filepath.Join(dir, "seal", name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "identity", "ca.key"), withFile, 0o600); err != nil {
		t.Fatal(err)
	}
	again := openSealed(t, dir, hostseal.Options{Choice: hostseal.WithTPM, Chip: chip})
	mustHoldKeys(t, again, caKey, first.SecretKeyIDs())
	mustSeal(t, again, hostseal.KindTPM)
	if left := filesIn(t, filepath.Join(dir, "seal")); len(left) != 1 {
		t.Errorf("the sealing keys %q are left", left)
	}
	mustHoldKeys(t, openSealed(t, dir, hostseal.Options{Choice: hostseal.WithTPM, Chip: chip}), caKey, first.SecretKeyIDs())
}

func filesIn(t *testing.T, dir string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	for _, e := range entries {
		content, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		found[e.Name()] = string(content)
	}
	return found
}

// A host that is to seal with a TPM and has none says so, goes on with the keys that it has, and
// writes no others.
func TestATPMThatIsWantedAndNotThere(t *testing.T) {
	mesh := identitytest.NewMesh(t)
	dir, caKey := mesh.First.Dir(), mesh.First.CAKey()
	id := openSealed(t, dir, hostseal.Options{Choice: hostseal.WithTPM})
	if err := id.SealKeyring(); !errors.Is(err, hostseal.ErrNoChip) || !strings.Contains(fault.Of(err).Remedy, "keyring.seal") {
		t.Errorf("told as %v", err)
	}
	mustHoldKeys(t, id, caKey, mesh.First.SecretKeyIDs())
	next, err := sealed.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	if err := id.KeepSecretKeys(next); !errors.Is(err, hostseal.ErrNoChip) {
		t.Errorf("another key was written: %v", err)
	}
	mustHoldKeys(t, openSealed(t, dir, hostseal.Options{Choice: hostseal.WithTPM}), caKey, mesh.First.SecretKeyIDs())
}

// The first host of a mesh has its keyring sealed from the first write on. As long as nobody else
// can have the keys, the loss of the TPM is an error; and no mesh is made without one if it is
// wanted.
func TestANewMeshIsSealedAtOnce(t *testing.T) {
	dir, chip := filepath.Join(t.TempDir(), "state"), &hostsealtest.Chip{}
	options := hostseal.Options{Choice: hostseal.WithTPM, Chip: chip}
	opts := founder
	opts.Seals = hostseal.Open(dir, hostseal.Options{Choice: hostseal.WithTPM})
	if _, err := identity.InitMesh(dir, opts); !errors.Is(err, hostseal.ErrNoChip) {
		t.Errorf("made without the TPM: %v", err)
	}
	if member, err := identity.Initialised(dir); err != nil || member {
		t.Errorf("a member without the TPM: %v", err)
	}
	opts.Seals = hostseal.Open(dir, options)
	ca, err := identity.InitMesh(dir, opts)
	if err != nil {
		t.Fatal(err)
	}
	if open := clearFiles(t, dir); len(open) > 0 {
		t.Errorf("%q are in clear", open)
	}
	if held, ok := openSealed(t, dir, options).HeldCA(); !ok || held != ca.Pin() {
		t.Error("the first host does not hold its CA's key")
	}
	chip.Clear()
	if _, err := identity.OpenSealed(dir, hostseal.Open(dir, options)); !errors.Is(err, hostseal.ErrOtherChip) {
		t.Errorf("a first host that lost its keys opens: %v", err)
	}
}

// The disk of a voter gives a recovery bundle where its sealing key is there: in any machine if
// that is a file, and in its own alone if it is the TPM. The disk stays as it is.
func TestABundleFromADisk(t *testing.T) {
	for _, c := range []struct {
		choice hostseal.Choice
		fails  bool
	}{{hostseal.WithFile, false}, {hostseal.WithTPM, true}} {
		first := identitytest.NewMesh(t).First
		home := hostseal.Options{Choice: c.choice, Chip: &hostsealtest.Chip{}}
		if err := openSealed(t, first.Dir(), home).SealKeyring(); err != nil {
			t.Fatal(err)
		}
		disk := filepath.Join(t.TempDir(), "disk")
		if err := os.CopyFS(disk, os.DirFS(first.Dir())); err != nil {
			t.Fatal(err)
		}
		before := keyringFiles(t, disk)
		for what, options := range map[string]hostseal.Options{"at home": home, "elsewhere": {Chip: &hostsealtest.Chip{}}} {
			bundle, err := identity.ReadBundle(disk, hostseal.Open(disk, options))
			if what == "elsewhere" && c.fails {
				if !errors.Is(err, hostseal.ErrOtherChip) {
					t.Errorf("%s, %s: %v", c.choice, what, err)
				}
				continue
			}
			if err != nil || !bytes.Equal(bundle.CAKey, first.CAKey()) || len(bundle.SecretKeys) != 1 {
				t.Errorf("%s, %s: another key, or %v", c.choice, what, err)
			}
		}
		if after := keyringFiles(t, disk); !sameFiles(before, after) {
			t.Errorf("%s: the disk was changed", c.choice)
		}
	}
}
