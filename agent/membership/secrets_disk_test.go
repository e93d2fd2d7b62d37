package membership

import (
	"bytes"
	"encoding/base64"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"virtmesh/agent/objects"
)

// filesWith returns the files below a directory that hold a password in one of its forms.
func filesWith(t *testing.T, dir, password string) (found []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		content, err := os.ReadFile(path)
		if showsPassword(content, password) {
			found = append(found, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func showsPassword(content []byte, password string) bool {
	return bytes.Contains(content, []byte(password)) || bytes.Contains(content, []byte(base64.StdEncoding.EncodeToString([]byte(password))))
}

func backupOf(t *testing.T, m *Member) []byte {
	t.Helper()
	var backup bytes.Buffer
	if _, err := m.store.Backup(t.Context(), &backup); err != nil {
		t.Fatal(err)
	}
	return backup.Bytes()
}

// Once there is a bundle, neither the log nor a snapshot nor a backup nor the disk of any host
// shows a Secret, its copy in kubectl's annotation included; every host reads it, the one that
// holds no key because a voter opens it. What was stored before is encrypted, too: of all that
// is on a disk, only the log of before shows it, for as long as its end is kept.
func TestSecretsAreEncrypted(t *testing.T) {
	t.Parallel()
	first, second := pair(t)
	const before, after = "correct horse battery staple", "Tr0ub4dor and 3 more of them"
	putSecret(t, second, "before", before)
	if !showsPassword(backupOf(t, first), before) {
		t.Fatal("a backup from before the bundle does not show the Secret: this test looks for the wrong thing")
	}
	stepSecrets(t, first, makeSecretKey)
	makeBundle(t, first)
	stepSecrets(t, first, useSecretKey)
	sameCopy(t, first, second)
	putSecret(t, second, "after", after)
	stepSecrets(t, first, sealObjects) // encrypts
	stepSecrets(t, first, sealObjects) // finds nothing more
	stepSecrets(t, first, nothingToSeal)
	sameCopy(t, first, second)

	for name, password := range map[string]string{"before": before, "after": after} {
		mustReadSecret(t, first, name, password)
		mustReadSecret(t, second, name, password)
		for _, m := range []*Member{first, second} {
			if backup := backupOf(t, m); showsPassword(backup, password) {
				t.Errorf("the backup of %s shows the Secret %s", m.config.Name, name)
			}
		}
	}
	for _, m := range []*Member{first, second} {
		if found := filesWith(t, m.config.StateDir, before); len(found) == 0 {
			t.Errorf("%s does not show the Secret of before in its log: this test looks for the wrong thing", m.config.Name)
		}
		if found := filesWith(t, m.config.StateDir, after); len(found) > 0 {
			t.Errorf("%s shows the Secret on its disk in %q", m.config.Name, found)
		}
	}
	if keys := second.identity.SecretKeys(); len(keys) > 0 {
		t.Errorf("host2 does not vote and holds %d keys", len(keys))
	}
	rec, _, err := second.store.Get(t.Context(), objects.KindFor[*corev1.Secret]().StoreKey(objects.Key{Namespace: "ns", Name: "after"}), localRead)
	if err != nil || !bytes.Contains(rec.Expand().Value, []byte(`"labels":{"app":"x"}`)) {
		t.Errorf("stored as %s, %v", rec.Expand().Value, err)
	}
	for _, m := range []*Member{first, second} {
		if err := m.store.Snapshot(); err != nil {
			t.Fatal(err)
		}
		snapshots := filepath.Join(m.config.raftDir(), "snapshots")
		if made, err := os.ReadDir(snapshots); err != nil || len(made) == 0 {
			t.Fatalf("%s has %d snapshots, %v", m.config.Name, len(made), err)
		}
		if found := filesWith(t, snapshots, before); len(found) > 0 {
			t.Errorf("a new snapshot of %s shows the Secret of before: %q", m.config.Name, found)
		}
	}
}
