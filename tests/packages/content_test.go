//go:build packages

package packages

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestContent checks what the package installs, with its modes and owners.
func TestContent(t *testing.T) {
	listing := run(t, "dpkg-deb", "--contents", built(t))
	entry := regexp.MustCompile(`(?m)^(\S+) (\S+) +\d+ \S+ \S+ \.(/\S+)`)
	got := map[string]string{}
	for _, match := range entry.FindAllStringSubmatch(listing, -1) {
		if got[match[3]] = match[1]; match[2] != "root/root" {
			t.Errorf("%s belongs to %s", match[3], match[2])
		}
	}
	for path, mode := range map[string]string{
		"/usr/bin/virtmesh":                                       "-rwxr-xr-x",
		"/usr/lib/systemd/system/virtmesh.service":                "-rw-r--r--",
		"/usr/lib/systemd/system/virtmesh-guest-services.service": "-rw-r--r--",
		"/usr/lib/systemd/system/virtmesh-shutdown.service":       "-rw-r--r--",
		"/usr/lib/sysusers.d/virtmesh.conf":                       "-rw-r--r--",
		"/usr/lib/sysctl.d/30-virtmesh.conf":                      "-rw-r--r--",
		"/usr/share/man/man8/virtmesh.8.gz":                       "-rw-r--r--",
		"/usr/share/bash-completion/completions/virtmesh":         "-rw-r--r--",
		"/usr/share/zsh/vendor-completions/_virtmesh":             "-rw-r--r--",
		"/usr/share/fish/vendor_completions.d/virtmesh.fish":      "-rw-r--r--",
		"/usr/share/doc/virtmesh/copyright":                       "-rw-r--r--",
		"/usr/share/doc/virtmesh/sbom.cdx.json":                   "-rw-r--r--",
		"/etc/virtmesh/":                                          "drwxr-xr-x",
		"/var/lib/virtmesh/":                                      "drwx--x--x",
	} {
		if got[path] != mode {
			t.Errorf("%s has the mode %q, and not %s", path, got[path], mode)
		}
	}
}

// TestFilesAreUnderstood checks the unit, the shells' completion and the manual page with
// the programs that read them.
func TestFilesAreUnderstood(t *testing.T) {
	folder := t.TempDir()
	run(t, "dpkg-deb", "--extract", built(t), folder)
	for _, name := range []string{"virtmesh-guest-services.service", "virtmesh-shutdown.service", "virtmesh.service"} {
		unit := filepath.Join(folder, "usr/lib/systemd/system", name)
		text, err := os.ReadFile(unit)
		if err != nil {
			t.Fatal(err)
		}
		// systemd looks for the program of the unit.
		here := strings.ReplaceAll(string(text), "/usr/bin/virtmesh", filepath.Join(folder, "usr/bin/virtmesh"))
		if err := os.WriteFile(unit, []byte(here), 0o644); err != nil {
			t.Fatal(err)
		}
		if told := run(t, "systemd-analyze", "verify", "--man=no", unit); strings.Contains(told, name) {
			t.Errorf("systemd complains:\n%s", told)
		}
	}
	run(t, "bash", "-n", filepath.Join(folder, "usr/share/bash-completion/completions/virtmesh"))
	page := run(t, "zcat", filepath.Join(folder, "usr/share/man/man8/virtmesh.8.gz"))
	for _, part := range []string{".TH virtmesh 8", "agent", "--token", "doctor"} {
		if !strings.Contains(page, part) {
			t.Errorf("the manual page does not contain %q", part)
		}
	}
}

// TestDependenciesAreDocumented checks that what the package needs is what an installation
// by hand is told to install.
func TestDependenciesAreDocumented(t *testing.T) {
	doc, err := os.ReadFile("../../docs/install.md")
	if err != nil {
		t.Fatal(err)
	}
	_, command, _ := strings.Cut(string(doc), "apt-get install --no-install-recommends")
	command, _, _ = strings.Cut(command, "```")
	documented := strings.Fields(strings.ReplaceAll(command, "\\", ""))
	// What each Debian has, what another package of the list brings, and the time service,
	// which the document has a line for.
	elsewhere := []string{"libc6", "init-system-helpers", "libvirt0", "systemd-timesyncd"}
	name := regexp.MustCompile(`[a-z0-9][a-z0-9.+-]+`)
	for _, field := range []string{"Depends", "Recommends"} {
		for dependency := range strings.SplitSeq(run(t, "dpkg-deb", "--field", built(t), field), ",") {
			needed := name.FindString(dependency)
			if !slices.Contains(elsewhere, needed) && !slices.Contains(documented, needed) {
				t.Errorf("%s of the package has %q, which docs/install.md does not list", field, needed)
			}
		}
	}
}

// TestBuildIsReproducible checks that the same source gives the same package, and that the
// checksums are those of the files.
func TestBuildIsReproducible(t *testing.T) {
	before := run(t, "sh", "-c", "cd ../../dist && sha256sum --check --strict SHA256SUMS >/dev/null && cat SHA256SUMS")
	if strings.Count(before, "\n") != 2 {
		t.Errorf("SHA256SUMS names other files than the package and its SBOM:\n%s", before)
	}
	run(t, "../../packaging/build")
	if after := run(t, "cat", "../../dist/SHA256SUMS"); after != before {
		t.Errorf("a second build gives other files:\n%s\nthan the first:\n%s", after, before)
	}
}

// TestProgramIsReproducible checks that the source gives the same program wherever it is.
func TestProgramIsReproducible(t *testing.T) {
	const program = "bin/virtmesh"
	elsewhere := t.TempDir()
	version := strings.Fields(run(t, "../../"+program, "--version"))
	// Without .git, as from an archive.
	run(t, "sh", "-c", "cd ../.. && git ls-files -z | xargs -0 cp --parents -t '"+elsewhere+"'")
	run(t, "make", "--directory", elsewhere, "build", "VERSION="+version[len(version)-1])
	run(t, "cmp", "../../"+program, filepath.Join(elsewhere, program))
}

// TestSBOM checks that the list of libraries names those in go.mod that the program is made
// of, by the versions there.
func TestSBOM(t *testing.T) {
	data, err := os.ReadFile(strings.TrimSuffix(built(t), ".deb") + ".cdx.json")
	if err != nil {
		t.Fatal(err)
	}
	var sbom struct {
		Format     string `json:"bomFormat"`
		Components []struct{ Name, Version string }
	}
	if err := json.Unmarshal(data, &sbom); err != nil {
		t.Fatal(err)
	}
	mod, err := os.ReadFile("../../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, component := range sbom.Components {
		if strings.Contains(string(mod), component.Name+" "+component.Version) {
			found++
		}
	}
	if sbom.Format != "CycloneDX" || found < 40 {
		t.Errorf("the list has the format %q and names %d libraries of go.mod", sbom.Format, found)
	}
}
