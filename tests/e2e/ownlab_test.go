//go:build e2e

package e2e

import (
	"context"
	"os"
	"strings"
	"testing"
)

// ownLab is a lab of one test, for what the other tests' lab must not go through.
type ownLab struct{ dir string }

// makeLab makes a lab without hosts in a new directory; it ends with the test.
func makeLab(t *testing.T, prefix string) ownLab {
	t.Helper()
	dir, err := os.MkdirTemp("/var/lib", prefix)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	l := ownLab{dir}
	t.Cleanup(func() {
		if _, err := l.run(context.Background(), "down"); err != nil {
			t.Error(err)
		}
		os.RemoveAll(dir)
	})
	return l
}

// run runs a lab command.
func (l ownLab) run(ctx context.Context, args ...string) (string, error) {
	return program(ctx, nil, append([]string{"lab", "--dir", l.dir}, args...)...)
}

// must is run for commands that must succeed.
func (l ownLab) must(t *testing.T, args ...string) string {
	t.Helper()
	out, err := l.run(t.Context(), args...)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(out)
}
