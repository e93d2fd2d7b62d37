package identity_test

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"virtmesh/agent/identity"
	"virtmesh/agent/identity/identitytest"
)

// An encrypted backup is opened by the key of its CA and no other; one that is not encrypted
// is read as it is.
func TestOpenBackup(t *testing.T) {
	key := identitytest.NewMesh(t).First.CAKey()
	other := identitytest.NewMesh(t).First.CAKey()
	recipient, err := identity.BackupRecipient(key)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := identity.BackupRecipient(key); err != nil || again != recipient {
		t.Errorf("a second time for %q, %v", again, err)
	}
	var sealed bytes.Buffer
	w, err := identity.EncryptBackup(&sealed, recipient)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, "the state"); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		backup string
		keys   [][]byte
		want   string
	}{
		"encrypted":             {sealed.String(), [][]byte{nil, other, key}, "the state"},
		"not encrypted":         {"the state", nil, "the state"},
		"empty":                 {"", [][]byte{key}, ""},
		"not encrypted, 1 byte": {"a", nil, "a"},
	} {
		r, err := identity.OpenBackup(strings.NewReader(c.backup), nil, c.keys...)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got, err := io.ReadAll(r); err != nil || string(got) != c.want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	for name, keys := range map[string][][]byte{"no key": nil, "an empty key": {nil}, "another key": {other}} {
		if _, err := identity.OpenBackup(strings.NewReader(sealed.String()), nil, keys...); !errors.Is(err, identity.ErrBackupSealed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := identity.EncryptBackup(&sealed, "nobody"); err == nil {
		t.Error("encrypted for nobody")
	}
}
