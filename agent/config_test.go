package agent

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

// goodConfig is the smallest configuration that is valid.
func goodConfig() Config {
	config := DefaultConfig()
	config.Name, config.Advertise = "host1", "192.0.2.1"
	return config
}

func TestConfigValidate(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(*Config)
		// field is what the error must name, "" when there must be none.
		field string
	}{
		{"defaults with a name and an address", func(*Config) {}, ""},
		{"IPv6 address", func(c *Config) { c.Advertise = "2001:db8::1" }, ""},
		{"no metrics", func(c *Config) { c.MetricsListen = "" }, ""},
		{"no pools", func(c *Config) { c.Pools = nil }, ""},
		{"no name", func(c *Config) { c.Name = "" }, "name"},
		{"upper case name", func(c *Config) { c.Name = "Host1" }, "name"},
		{"name with a dot", func(c *Config) { c.Name = "host1.example" }, "name"},
		{"name that begins with a dash", func(c *Config) { c.Name = "-host" }, "name"},
		{"name of 63 letters", func(c *Config) { c.Name = strings.Repeat("a", 63) }, ""},
		{"name of 64 letters", func(c *Config) { c.Name = strings.Repeat("a", 64) }, "name"},
		{"advertised name", func(c *Config) { c.Advertise = "host1" }, "advertise"},
		{"advertised port", func(c *Config) { c.Advertise = "192.0.2.1:7443" }, "advertise"},
		{"listen without a port", func(c *Config) { c.MeshListen = "0.0.0.0" }, "meshListen"},
		{"listen on port 65536", func(c *Config) { c.MeshListen = ":65536" }, "meshListen"},
		{"listen on port 0", func(c *Config) { c.MeshListen = ":0" }, "meshListen"},
		{"listen on a named port", func(c *Config) { c.MeshListen = ":mesh" }, "meshListen"},
		{"gossip port 0", func(c *Config) { c.GossipPort = 0 }, "gossipPort"},
		{"gossip port 65536", func(c *Config) { c.GossipPort = 65536 }, "gossipPort"},
		{"relative state directory", func(c *Config) { c.StateDir = "state" }, "stateDir"},
		{"relative run directory", func(c *Config) { c.RunDir = "run" }, "runDir"},
		{"unknown acceleration", func(c *Config) { c.Hypervisor.Acceleration = "xen" }, "hypervisor.acceleration"},
		{"pod network that is no prefix", func(c *Config) { c.Network.PodCIDR = "10.0.0.0" }, "network.podCIDR"},
		{"IPv6 pod network", func(c *Config) { c.Network.PodCIDR = "fd00::/16" }, "network.podCIDR"},
		{"pod network for two hosts", func(c *Config) { c.Network.PodCIDR = "10.0.0.0/23" }, "network.podCIDR"},
		{"pod network for four hosts", func(c *Config) { c.Network.PodCIDR = "10.0.0.0/22" }, ""},
		{"pool without a name", func(c *Config) { c.Pools[0].Name = "" }, "pools[0].name"},
		{"pool with a relative path", func(c *Config) { c.Pools[0].Path = "pools" }, "pools[0].path"},
		{"two pools of one name", func(c *Config) { c.Pools = append(c.Pools, c.Pools[0]) }, "pools[1].name"},
		{"short-lived certificates", func(c *Config) { c.CertificateLifetime = Duration(time.Millisecond) }, "certificateLifetime"},
	} {
		t.Run(test.name, func(t *testing.T) {
			config := goodConfig()
			test.change(&config)
			err := config.Validate()
			if test.field == "" {
				if err != nil {
					t.Errorf("got %v, want no error", err)
				}
				return
			}
			if err == nil || !strings.HasPrefix(err.Error(), test.field+":") {
				t.Errorf("got %v, want an error that names %s", err, test.field)
			}
		})
	}
}

func TestConfigValidateNamesAllFaults(t *testing.T) {
	config := goodConfig()
	config.Name, config.GossipPort, config.Advertise = "", 0, ""
	err := config.Validate()
	for _, field := range []string{"name:", "gossipPort:", "advertise:"} {
		if err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("got %v, want %s among the faults", err, field)
		}
	}
}

func TestConfigSaveAndLoad(t *testing.T) {
	path := filepath.Join(t.TempDir(), "etc", "agent.yaml")
	want := goodConfig()
	want.Zone = "rack1"
	want.Labels = map[string]string{"disk": "ssd"}
	want.Capacity.ReservedMemoryBytes = 2 << 30
	want.CertificateLifetime = Duration(90 * time.Minute)
	want.Pools = append(want.Pools, PoolConfig{Name: "nfs", Path: "/mnt/nfs", Shared: true})
	want.Network.Bridges = []BridgeConfig{{Name: "lan", Uplink: "eth1"}}
	want.Images.InsecureRegistries = []string{"192.0.2.5:5000"}
	for range 2 {
		if err := want.Save(path); err != nil {
			t.Fatal(err)
		}
		got, err := LoadConfig(path)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("got\n%+v\nwant\n%+v", got, want)
		}
		// The second round overwrites a longer file.
		want.Pools = want.Pools[:1]
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("the file has mode %o", info.Mode().Perm())
	}
	if left, _ := filepath.Glob(path + ".*"); len(left) > 0 {
		t.Errorf("saving left %q behind", left)
	}
}

func TestLoadConfig(t *testing.T) {
	for _, test := range []struct{ name, file, want string }{
		{"defaults stay", "name: host1\nadvertise: 192.0.2.1\n", ""},
		{"unknown field", "name: host1\nadvertise: 192.0.2.1\nzoen: a\n", "zoen"},
		{"unknown nested field", "name: host1\nadvertise: 192.0.2.1\nnetwork: {podCidrs: 10.0.0.0/8}\n", "podCidrs"},
		{"field given twice", "name: host1\nname: host2\nadvertise: 192.0.2.1\n", "name"},
		{"invalid value", "name: Host1\nadvertise: 192.0.2.1\n", "name:"},
		{"number for a duration", "name: host1\nadvertise: 192.0.2.1\ncertificateLifetime: 24\n", "24h"},
		{"nonsense for a duration", "name: host1\nadvertise: 192.0.2.1\ncertificateLifetime: soon\n", "soon"},
		{"no YAML", "name: [", "agent.yaml"},
	} {
		t.Run(test.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "agent.yaml")
			if err := os.WriteFile(path, []byte(test.file), 0o600); err != nil {
				t.Fatal(err)
			}
			config, err := LoadConfig(path)
			if test.want == "" {
				if err != nil || !reflect.DeepEqual(config, goodConfig()) {
					t.Errorf("got %+v, %v; want the defaults", config, err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), path) {
				t.Errorf("got %v, want an error with %q and the file's name", err, test.want)
			}
		})
	}
	if _, err := LoadConfig(filepath.Join(t.TempDir(), "agent.yaml")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing file: %v", err)
	}
}

func TestDuration(t *testing.T) {
	data, err := json.Marshal(Duration(36 * time.Hour))
	if err != nil || string(data) != `"36h0m0s"` {
		t.Errorf("got %s, %v", data, err)
	}
	for text, want := range map[string]time.Duration{`"36h0m0s"`: 36 * time.Hour, `"1h30m"`: 90 * time.Minute, `"0s"`: 0} {
		var got Duration
		if err := json.Unmarshal([]byte(text), &got); err != nil || time.Duration(got) != want {
			t.Errorf("%s: got %s, %v; want %s", text, time.Duration(got), err, want)
		}
	}
	for _, text := range []string{`24`, `true`, `"24"`, `""`, `{}`} {
		var got Duration
		if err := json.Unmarshal([]byte(text), &got); err == nil {
			t.Errorf("%s is read as %s", text, time.Duration(got))
		}
	}
}

func TestConfigAddresses(t *testing.T) {
	config := goodConfig()
	config.RunDir = "/run/other"
	if config.Socket() != "/run/other/agent.sock" {
		t.Errorf("got socket %s", config.Socket())
	}
	for listen, want := range map[string]string{":7443": "192.0.2.1:7443", "0.0.0.0:9000": "192.0.2.1:9000"} {
		config.MeshListen = listen
		if got := config.MeshAddress(); got != want {
			t.Errorf("listening on %s is advertised as %s, want %s", listen, got, want)
		}
	}
	config.Advertise, config.MeshListen = "2001:db8::1", ":7443"
	if got := config.MeshAddress(); got != "[2001:db8::1]:7443" {
		t.Errorf("got %s", got)
	}
}

// A file of an earlier version has settings that are the mesh's now.
func TestConfigNamesSettingsThatMoved(t *testing.T) {
	path := filepath.Join(t.TempDir(), "agent.yaml")
	if err := goodConfig().Save(path); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for setting, value := range map[string]string{"cpuAllocationRatio": "10", "memoryOvercommitPercent": "100", "policy": "balance"} {
		old := strings.Replace(string(data), "capacity:\n", "capacity:\n  "+setting+": "+value+"\n", 1)
		if err := os.WriteFile(path, []byte(old), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := LoadConfig(path); err == nil || !strings.Contains(err.Error(), "capacity."+setting+": ") || !strings.Contains(err.Error(), "MeshConfig") {
			t.Errorf("%s: got %v, want an error that names the setting and MeshConfig", setting, err)
		}
	}
}
