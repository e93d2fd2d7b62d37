package privatelibvirtd

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func goodConfig(t *testing.T) Config {
	t.Helper()
	c := DefaultConfig()
	c.Dir, c.HostUUID = filepath.Join(t.TempDir(), "l"), testUUID
	if len(c.socket()) > maxSocketPath {
		c.Dir = "/tmp/plv-config"
	}
	return c
}

// TestConfigurationIsThatOfARealHost: limits are libvirt's own, nothing listens on the
// network, and guests are confined as far as the package says.
func TestConfigurationIsThatOfARealHost(t *testing.T) {
	c := goodConfig(t)
	text := libvirtdConf(c) + qemuConf(c) + virtlogdConf(c)
	for _, want := range []string{
		"listen_tls = 0", "listen_tcp = 0", "host_uuid = \"" + testUUID + "\"", "unix_sock_rw_perms = \"0700\"",
		"user = \"libvirt-qemu\"", "seccomp_sandbox = 1", "remember_owner = 0", "stdio_handler = \"logd\"", "cgroup_controllers = [ ]",
	} {
		if !strings.Contains(text, want+"\n") {
			t.Errorf("%s is missing in:\n%s", want, text)
		}
	}
	for _, limit := range []string{"max_client_requests", "max_workers"} {
		if strings.Contains(text, limit) {
			t.Errorf("%s is not libvirt's own", limit)
		}
	}
	c.Cgroups = true
	if strings.Contains(qemuConf(c), "cgroup_controllers") {
		t.Error("cgroups are refused although they are asked for")
	}
}

func TestBindsCoverWhatIsCompiledIn(t *testing.T) {
	c := goodConfig(t)
	targets := map[string]string{}
	for _, b := range Binds(c) {
		targets[b.Target] = b.Source
		if !strings.HasPrefix(b.Source, c.Dir+"/") {
			t.Errorf("%s is outside %s", b.Source, c.Dir)
		}
		if !strings.Contains(MountScript(c), "mount --bind '"+b.Source+"' "+b.Target+"\n") {
			t.Errorf("the script does not mount %s", b.Target)
		}
	}
	for _, want := range []string{"/etc/libvirt", "/run/libvirt", "/var/lib/libvirt", "/var/cache/libvirt", "/var/log/libvirt"} {
		if targets[want] == "" {
			t.Errorf("%s is not covered", want)
		}
	}
	c.CacheDir = "/var/cache/shared"
	for _, b := range Binds(c) {
		if b.Target == "/var/cache/libvirt" && b.Source != c.CacheDir {
			t.Errorf("the cache is %s", b.Source)
		}
	}
}

// TestPrepareCanBeRepeated: what it writes the second time is what it wrote the first.
func TestPrepareCanBeRepeated(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("makes a device node")
	}
	c := goodConfig(t)
	t.Cleanup(func() { _ = os.RemoveAll(c.Dir) })
	var read [2]string
	for i := range read {
		if err := Prepare(c); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"libvirtd.conf", "qemu.conf", "virtlogd.conf"} {
			text, err := os.ReadFile(filepath.Join(c.Dir, "etc", name))
			if err != nil || len(text) == 0 {
				t.Fatalf("%s: %v", name, err)
			}
			read[i] += string(text)
		}
	}
	if read[0] != read[1] {
		t.Errorf("first\n%s\nthen\n%s", read[0], read[1])
	}
	for _, b := range Binds(c) {
		if info, err := os.Stat(b.Source); err != nil || !info.IsDir() {
			t.Errorf("%s: %v", b.Source, err)
		}
	}
	c.HostUUID = "x"
	if err := Prepare(c); err == nil || !strings.Contains(err.Error(), "HostUUID") {
		t.Errorf("a bad configuration: %v", err)
	}
}

func TestLastWordsAreTheEnd(t *testing.T) {
	path := filepath.Join(t.TempDir(), "stderr")
	for content, want := range map[string]string{
		"": "nothing", " \n": "nothing", "cannot bind\n": "cannot bind",
		strings.Repeat("x", 5000) + " the end\n": strings.Repeat("x", 2048-len(" the end\n")) + " the end",
	} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := lastWords(path); got != want {
			t.Errorf("of %d bytes: %q", len(content), got)
		}
	}
	if got := lastWords(path + "x"); !strings.Contains(got, "no such file") {
		t.Errorf("of no file: %q", got)
	}
}
