package cli

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A secret is not printed to a file that others may read.
func TestSecretsAreNotPrintedToOpenFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	for mode, refused := range map[os.FileMode]bool{0o600: false, 0o640: true, 0o604: true} {
		file, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := file.Chmod(mode); err != nil {
			t.Fatal(err)
		}
		err = refuseOpenFile(file, "the token", "--file")
		if refused != (err != nil) || refused && !strings.Contains(err.Error(), "write it with --file FILE") {
			t.Errorf("mode %s: %v", mode, err)
		}
		if err := file.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := refuseOpenFile(&bytes.Buffer{}, "the token", "--file"); err != nil {
		t.Errorf("no file: %v", err)
	}
}
