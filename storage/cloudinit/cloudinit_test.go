package cloudinit

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kdomanski/iso9660"
)

// readISO reads an image with a reader that is not ours.
func readISO(t testing.TB, img []byte) (string, map[string][]byte) {
	t.Helper()
	i, err := iso9660.OpenImage(bytes.NewReader(img))
	if err != nil {
		t.Fatal(err)
	}
	label, err := i.Label()
	if err != nil {
		t.Fatal(err)
	}
	root, err := i.RootDir()
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{}
	var walk func(f *iso9660.File, at string)
	walk = func(f *iso9660.File, at string) {
		if !f.IsDir() {
			b, err := io.ReadAll(f.Reader())
			if err != nil {
				t.Fatal(err)
			}
			files[at] = b
			return
		}
		children, err := f.GetChildren()
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range children {
			walk(c, strings.TrimPrefix(at+"/"+c.Name(), "/"))
		}
	}
	walk(root, "")
	return strings.TrimSpace(label), files
}

func sameFiles(a, b map[string][]byte) bool {
	return maps.EqualFunc(a, b, bytes.Equal)
}

func TestISOHoldsItsFiles(t *testing.T) {
	for name, files := range map[string]map[string][]byte{
		"none":   {},
		"empty":  {"empty": {}},
		"case":   {"UPPER": []byte("1"), "lower": []byte("2"), "Unattend.xml": []byte("3"), ".hidden": []byte("4")},
		"deep":   {"a/b/c/d/e": []byte("deep"), "a/b/x": []byte("x"), "a/z/c": []byte("c"), "b": bytes.Repeat([]byte("long"), 5000)},
		"border": {"2048": make([]byte, 2048), "2049": make([]byte, 2049)},
		"64":     {strings.Repeat("n", 64): []byte("long name")},
	} {
		t.Run(name, func(t *testing.T) {
			img, err := ISO("label", files)
			if err != nil {
				t.Fatal(err)
			}
			label, got := readISO(t, img)
			if label != "label" || !sameFiles(got, files) {
				t.Errorf("label %q, %d files of %d", label, len(got), len(files))
			}
			if len(img)%isoSector != 0 {
				t.Errorf("%d bytes", len(img))
			}
		})
	}
}

func TestISORefuses(t *testing.T) {
	for _, n := range []string{"", "/abs", "a//b", "a/", "../x", "a/../b", "a\x00b", "a:b", "a\\b", strings.Repeat("n", 65), "\xff"} {
		if _, err := ISO("label", map[string][]byte{n: nil}); err == nil {
			t.Errorf("file name %q was accepted", n)
		}
	}
	if _, err := ISO("label", map[string][]byte{"a": nil, "a/b": nil}); err == nil {
		t.Error("a file that is a folder was accepted")
	}
	for _, l := range []string{"", "17-characters-and", "two words"} {
		if _, err := ISO(l, nil); err == nil {
			t.Errorf("label %q was accepted", l)
		}
	}
}

func TestSameSeedSameBytes(t *testing.T) {
	s := Seed{InstanceID: "i", Hostname: "h", PublicKeys: []string{"a", "b", "c"}, UserData: []byte("#!/bin/sh\n"), NetworkData: []byte("version: 2\n")}
	for name, f := range map[string]func(Seed) ([]byte, error){"NoCloud": NoCloud, "ConfigDrive": ConfigDrive} {
		first, err := f(s)
		if err != nil {
			t.Fatal(err)
		}
		for range 20 {
			if again, err := f(s); err != nil || !bytes.Equal(first, again) {
				t.Fatalf("%s differs from itself (%v)", name, err)
			}
		}
	}
}

func TestSeedContent(t *testing.T) {
	s := Seed{InstanceID: "i-1", Hostname: "vm.example", PublicKeys: []string{"ssh-ed25519 AAAA"}, UserData: []byte("#cloud-config\n")}
	img, err := NoCloud(s)
	if err != nil {
		t.Fatal(err)
	}
	label, files := readISO(t, img)
	var meta map[string]any
	if err := json.Unmarshal(files["meta-data"], &meta); err != nil {
		t.Fatal(err)
	}
	if label != "cidata" || len(files) != 2 || string(files["user-data"]) != "#cloud-config\n" ||
		meta["instance-id"] != "i-1" || meta["local-hostname"] != "vm.example" {
		t.Errorf("label %s, files %q", label, files)
	}
	s.NetworkData = []byte("{}")
	if img, err = ConfigDrive(s); err != nil {
		t.Fatal(err)
	}
	label, files = readISO(t, img)
	if label != "config-2" || string(files["openstack/latest/network_data.json"]) != "{}" ||
		!bytes.Contains(files["openstack/latest/meta_data.json"], []byte(`"hostname":"vm.example"`)) {
		t.Errorf("label %s, files %q", label, files)
	}
	for _, bad := range []Seed{{Hostname: "h"}, {InstanceID: "i"}} {
		if _, err := NoCloud(bad); err == nil {
			t.Errorf("accepted %+v", bad)
		}
		if _, err := ConfigDrive(bad); err == nil {
			t.Errorf("accepted %+v", bad)
		}
	}
}

func TestPick(t *testing.T) {
	for _, c := range []struct {
		text, encoded string
		secret        []byte
		want          string
		fails         bool
	}{
		{"", "", nil, "", false}, {"a", "", nil, "a", false}, {"", "YQ==", nil, "a", false},
		{"", "", []byte("s"), "s", false}, {"a", "YQ==", nil, "", true}, {"a", "", []byte("s"), "", true},
		{"", "not base64!", nil, "", true},
	} {
		got, err := Pick("spec.userData", c.text, c.encoded, c.secret)
		if (err != nil) != c.fails || string(got) != c.want {
			t.Errorf("%+v: %q, %v", c, got, err)
		}
		if err != nil && !strings.HasPrefix(err.Error(), "spec.userData") {
			t.Errorf("the error does not name the field: %v", err)
		}
	}
}

// TestISOForOtherReaders asks isoinfo for both trees, since the library reads the
// first only, and muddles names in folders of more than a sector.
func TestISOForOtherReaders(t *testing.T) {
	if _, err := exec.LookPath("isoinfo"); err != nil {
		if os.Geteuid() != 0 {
			t.Skip("needs isoinfo, which make packages installs")
		}
		t.Fatalf("needs isoinfo, which make packages installs: %v", err)
	}
	files := map[string][]byte{"Some-File.txt": []byte("content")}
	for i := range 300 {
		files[fmt.Sprintf("dir/file-%d-with.a.Name", i)] = bytes.Repeat([]byte{byte(i)}, i*17)
	}
	img, err := ISO("both", files)
	if err != nil {
		t.Fatal(err)
	}
	p := filepath.Join(t.TempDir(), "x.iso")
	if err := os.WriteFile(p, img, 0o600); err != nil {
		t.Fatal(err)
	}
	for tree, suffix := range map[string]string{"-R": "", "-J": ";1"} {
		out, err := exec.Command("isoinfo", "-i", p, tree, "-f").CombinedOutput()
		if err != nil {
			t.Fatalf("isoinfo %s: %v: %s", tree, err, out)
		}
		for name := range files {
			if !strings.Contains(string(out), "/"+name+suffix+"\n") {
				t.Errorf("%s does not list %s", tree, name)
			}
		}
		for _, name := range []string{"Some-File.txt", "dir/file-299-with.a.Name"} {
			out, err = exec.Command("isoinfo", "-i", p, tree, "-x", "/"+name+suffix).Output()
			if err != nil || !bytes.Equal(out, files[name]) {
				t.Errorf("%s reads %d bytes of %s, %v", tree, len(out), name, err)
			}
		}
	}
}

func FuzzISO(f *testing.F) {
	f.Add("a", "b/c", []byte("x"))
	f.Fuzz(func(t *testing.T, a, b string, data []byte) {
		files := map[string][]byte{a: data, b: data}
		img, err := ISO("fuzz", files)
		if err != nil {
			return
		}
		if _, got := readISO(t, img); !sameFiles(got, files) {
			t.Errorf("%q came back as %q", files, got)
		}
	})
}
