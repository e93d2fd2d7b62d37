//go:build packages

package packages

import (
	"encoding/xml"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestAppArmorNamesEveryFile checks that the profile that libvirt makes for a guest names
// every file that its QEMU opens: the package has no rules of its own for AppArmor, so a
// file without a rule could not be opened on a host.
func TestAppArmorNamesEveryFile(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("virt-aa-helper runs as root only")
	}
	domains, err := filepath.Glob("../../agent/host/domain/testdata/*.xml")
	if err != nil || len(domains) == 0 {
		t.Fatalf("found no domains: %v", err)
	}
	all := 0
	for _, path := range domains {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		uuid, files := opened(t, string(text))
		cmd := exec.CommandContext(t.Context(), "/usr/lib/libvirt/virt-aa-helper", "--create", "--dryrun", "--uuid", "libvirt-"+uuid)
		cmd.Stdin = strings.NewReader(string(text))
		profile, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", path, err, profile)
		}
		for _, file := range files {
			all++
			if !strings.Contains(string(profile), `  "`+file+`" r`) {
				t.Errorf("%s: the profile has no rule for %s:\n%s", path, file, profile)
			}
		}
	}
	if all < len(domains) {
		t.Errorf("found only %d files in %d domains", all, len(domains))
	}
}

// opened returns the UUID of a domain and the files and devices that its QEMU opens by path:
// disks with what is below them, sockets, firmware and its variables, kernels.
func opened(t *testing.T, domain string) (uuid string, files []string) {
	t.Helper()
	decoder := xml.NewDecoder(strings.NewReader(domain))
	var inside []string
	for {
		token, err := decoder.Token()
		if err == io.EOF {
			return uuid, files
		}
		if err != nil {
			t.Fatal(err)
		}
		switch element := token.(type) {
		case xml.StartElement:
			inside = append(inside, element.Name.Local)
			for _, attribute := range element.Attr {
				disk := slices.Contains(inside, "disk") && slices.Contains([]string{"file", "dev"}, attribute.Name.Local)
				socket := slices.Contains(inside, "channel") && attribute.Name.Local == "path"
				if element.Name.Local == "source" && (disk || socket) {
					files = append(files, attribute.Value)
				}
			}
		case xml.EndElement:
			inside = inside[:len(inside)-1]
		case xml.CharData:
			value := strings.TrimSpace(string(element))
			switch {
			case len(inside) == 0 || value == "":
			case inside[len(inside)-1] == "uuid" && uuid == "":
				uuid = value
			case slices.Contains([]string{"kernel", "initrd", "loader", "nvram"}, inside[len(inside)-1]):
				files = append(files, value)
			}
		}
	}
}
