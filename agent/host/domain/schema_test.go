package domain

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestSchema holds every golden definition and every device against libvirt's own
// schema: libvirt ignores what it does not know, so a misspelt element would be
// quietly without effect.
func TestSchema(t *testing.T) {
	const schema = "/usr/share/libvirt/schemas/domain.rng"
	tool, err := exec.LookPath("xmllint")
	if _, statErr := os.Stat(schema); err != nil || statErr != nil {
		t.Skipf("needs libvirt's schema and xmllint, of libxml2-utils: %v, %v", err, statErr)
	}
	files, err := filepath.Glob(filepath.Join("testdata", "*.xml"))
	if err != nil || len(files) == 0 {
		t.Fatal("no golden files", err)
	}
	dir := t.TempDir()
	for i, tc := range deviceCases() {
		if tc.newer {
			continue
		}
		path := filepath.Join(dir, fmt.Sprintf("%02d %s.xml", i, tc.name))
		if err := os.WriteFile(path, []byte(definition(t, tc.input(t))), 0o644); err != nil {
			t.Fatal(err)
		}
		files = append(files, path)
	}
	out, err := exec.Command(tool, append([]string{"--noout", "--relaxng", schema}, files...)...).CombinedOutput()
	if err != nil {
		t.Errorf("%v", err)
		for line := range strings.SplitSeq(string(out), "\n") {
			if line != "" && !strings.HasSuffix(line, " validates") {
				t.Error(line)
			}
		}
	}
}
