package shape

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"
)

// testName finds a test that is named as code.
var testName = regexp.MustCompile("`((?:Test|Fuzz|Benchmark)[A-Z][A-Za-z0-9]*)`")

// What a document says is shown by a test is shown by nothing if there is no such test.
func TestDocumentsNameTestsThatExist(t *testing.T) {
	_, packages := load(t)
	tests := map[string]bool{}
	for _, p := range packages {
		for _, file := range p.tests {
			for name, object := range file.Scope.Objects {
				tests[name] = object != nil
			}
		}
	}
	named := 0
	for _, document := range documents(t) {
		text, err := os.ReadFile(filepath.Join(root, document))
		if err != nil {
			t.Fatal(err)
		}
		for _, match := range testName.FindAllSubmatch(text, -1) {
			named++
			if name := string(match[1]); !tests[name] {
				t.Errorf("%s names the test %s, which is not there", document, name)
			}
		}
	}
	if named == 0 {
		t.Error("no document names a test; SECURITY.md must")
	}
}
