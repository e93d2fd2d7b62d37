package membership

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"virtmesh/agent/hostseal"
	"virtmesh/agent/identity/identitytest"
	"virtmesh/agent/level"
)

// sealedFiles returns which secret files a host has, and whether each is sealed.
func sealedFiles(t *testing.T, config Config) map[string]bool {
	t.Helper()
	found := map[string]bool{}
	for _, name := range []string{"ca.key", "secret.keys"} {
		content, err := os.ReadFile(filepath.Join(config.StateDir, "identity", name))
		if os.IsNotExist(err) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		_, found[name] = hostseal.SealedWith(content)
	}
	return found
}

// The first host of a mesh seals its keyring from the start, a host that joins before it holds
// anything, and says with what.
func TestHostsSealTheirKeyring(t *testing.T) {
	t.Parallel()
	first, second := pair(t)
	if files := sealedFiles(t, first.config); len(files) != 2 || !files["ca.key"] || !files["secret.keys"] {
		t.Errorf("host1 has sealed %v", files)
	}
	for _, m := range []*Member{first, second} {
		if _, err := m.keyringKeeper().step(t.Context()); err != nil {
			t.Fatal(err)
		}
		if seal := m.keyringSeal(); seal.With != hostseal.KindFile || seal.NoTPM != "" || len(seal.Shut) > 0 {
			t.Errorf("%s says %+v", m.config.Name, seal)
		}
	}
	// Any key that comes to the host is sealed.
	if err := second.identity.KeepCAKey(first.identity.CAKey()); err != nil {
		t.Fatal(err)
	}
	if files := sealedFiles(t, second.config); !files["ca.key"] {
		t.Errorf("host2 has sealed %v", files)
	}
}

// A host that cannot open its keyring any more starts and says so, until it has the keys again.
func TestAHostWithAShutKeyring(t *testing.T) {
	t.Parallel()
	first, second, _ := withdrawn(t)
	if err := second.identity.SealKeyring(); err != nil {
		t.Fatal(err)
	}
	ca, ok := first.identity.HeldCA()
	if !ok {
		t.Fatal("host1 does not hold the key of the CA")
	}
	if err := second.identity.KeepCAKey(first.identity.CAKey()); err != nil {
		t.Fatal(err)
	}
	shutdown(second)
	keys, err := filepath.Glob(filepath.Join(second.config.StateDir, "seal", "*.key"))
	if err != nil || len(keys) != 1 {
		t.Fatal(keys, err)
	}
	if err := os.Remove(keys[0]); err != nil {
		t.Fatal(err)
	}
	again := boot(t, second.config)
	if seal := again.keyringSeal(); len(seal.Shut) != 1 || !strings.Contains(seal.Shut[0], "host2 does without keys") || !strings.Contains(seal.Shut[0], "another voter gives") {
		t.Errorf("host2 says %+v", seal)
	}
	if _, held := again.identity.HeldCA(); held {
		t.Fatal("host2 opens what it has no key for")
	}
	if err := again.identity.KeepCAKey(first.identity.CAKey()); err != nil {
		t.Fatal(err)
	}
	if held, ok := again.identity.HeldCA(); !ok || held != ca {
		t.Errorf("host2 holds the key of %s: %t", held, ok)
	}
	if seal := again.keyringSeal(); len(seal.Shut) > 0 {
		t.Errorf("host2 still says %q", seal.Shut)
	}
}

func TestTheConfigurationSaysWhatSeals(t *testing.T) {
	t.Parallel()
	_, config := newMachine(t, "host1")
	for choice, ok := range map[hostseal.Choice]bool{"": true, "auto": true, "tpm": true, "file": true, "TPM": false, "none": false} {
		config.Keyring.Seal = choice
		err := config.Validate()
		if ok != (err == nil) || !ok && !strings.HasPrefix(err.Error(), "keyring.seal: ") {
			t.Errorf("%q: %v", choice, err)
		}
	}
}

// As long as an earlier version can be installed again, which could not read them, the files
// stay in clear.
func TestTheKeyringIsSealedFromItsLevelOn(t *testing.T) {
	t.Parallel()
	id := identitytest.NewMesh(t).First
	for _, c := range []struct {
		level uint32
		want  hostseal.Kind
	}{{level.Succession - 1, hostseal.Unsealed}, {level.Succession, hostseal.KindFile}} {
		keeper := keyringKeeper{identity: id, level: func() uint32 { return c.level }}
		err := keeper.sealKeyring()
		files := sealedFiles(t, Config{StateDir: id.Dir()})
		if sealed := c.want != hostseal.Unsealed; err != nil || id.Sealing().Kind != c.want || len(files) != 2 || files["ca.key"] != sealed || files["secret.keys"] != sealed {
			t.Errorf("at level %d sealed with %q, files %v, %v", c.level, id.Sealing().Kind, files, err)
		}
	}
}
