package cloudinit

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kdomanski/iso9660"
)

// read returns the files of a seed image by name, and its label.
func read(t *testing.T, path string) (map[string]string, string) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	image, err := iso9660.OpenImage(f)
	if err != nil {
		t.Fatal(err)
	}
	root, err := image.RootDir()
	if err != nil {
		t.Fatal(err)
	}
	children, err := root.GetChildren()
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for _, child := range children {
		data, err := io.ReadAll(child.Reader())
		if err != nil {
			t.Fatal(err)
		}
		files[child.Name()] = string(data)
	}
	label, err := image.Label()
	if err != nil {
		t.Fatal(err)
	}
	return files, label
}

func TestGuestFindsItsSeed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "seed.iso")
	seed := Seed{InstanceID: "one.default", Hostname: "one", UserData: []byte("#cloud-config\n"), NetworkData: []byte("version: 2\n"), PublicKeys: []string{"ssh-ed25519 AAAA"}}
	if err := seed.Write(path); err != nil {
		t.Fatal(err)
	}
	files, label := read(t, path)
	if label != "cidata" {
		t.Errorf("the volume is called %q", label)
	}
	if files["user-data"] != "#cloud-config\n" || files["network-config"] != "version: 2\n" {
		t.Errorf("the seed holds %q", files)
	}
	for _, want := range []string{"instance-id: one.default", "local-hostname: one", "ssh-ed25519 AAAA"} {
		if !strings.Contains(files["meta-data"], want) {
			t.Errorf("meta-data %q lacks %q", files["meta-data"], want)
		}
	}
}

func TestNoNetworkDataMeansNoFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "seed.iso")
	if err := (Seed{InstanceID: "one", Hostname: "one"}).Write(path); err != nil {
		t.Fatal(err)
	}
	if files, _ := read(t, path); len(files) != 2 {
		t.Errorf("the seed holds %q", files)
	}
}

func TestTooLargeSeedLeavesNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "seed.iso")
	err := (Seed{UserData: make([]byte, MaxBytes+1)}).Write(path)
	if !errors.Is(err, ErrTooLarge) {
		t.Errorf("got %v, want ErrTooLarge", err)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a refused seed left a file: %v", err)
	}
}
