package cli

import (
	"io"
	"reflect"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"

	"virtmesh/agent"
	"virtmesh/agent/host"
)

// configOf is the configuration that flags of 'agent init' make.
func configOf(t *testing.T, args ...string) (agent.Config, error) {
	t.Helper()
	var config agent.Config
	var failure error
	app := &cli.App{
		Writer: io.Discard, ErrWriter: io.Discard, DisableSliceFlagSeparator: true, Flags: hostFlags(),
		Action: func(c *cli.Context) error {
			config, failure = hostConfig(c)
			return nil
		},
	}
	if err := app.Run(append([]string{"virtmesh"}, args...)); err != nil {
		t.Fatal(err)
	}
	return config, failure
}

func TestFlagsOfAHost(t *testing.T) {
	base := []string{"--name", "host1", "--advertise", "192.0.2.1"}
	plain, err := configOf(t, base...)
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		args   []string
		change func(*agent.Config)
	}{
		{nil, func(*agent.Config) {}},
		{[]string{"--name", "host2"}, func(c *agent.Config) { c.Name = "host2" }},
		{[]string{"--advertise", "2001:db8::1"}, func(c *agent.Config) { c.Advertise = "2001:db8::1" }},
		{[]string{"--zone", "east"}, func(c *agent.Config) { c.Zone = "east" }},
		{[]string{"--port", "1"}, func(c *agent.Config) { c.MeshListen = ":1" }},
		{[]string{"--gossip-port", "2"}, func(c *agent.Config) { c.GossipPort = 2 }},
		{[]string{"--insecure-registry", "localhost:5000"}, func(c *agent.Config) { c.Images.InsecureRegistries = []string{"localhost:5000"} }},
		{[]string{"--acceleration", "tcg"}, func(c *agent.Config) { c.Hypervisor.Acceleration = "tcg" }},
		{[]string{"--state-dir", "/srv/mesh"}, func(c *agent.Config) {
			c.StateDir, c.Pools[0].Path = "/srv/mesh", "/srv/mesh/pools/local"
		}},
		{[]string{"--pool", "fast=/mnt/fast", "--pool", "nfs=/mnt/a,b,shared"}, func(c *agent.Config) {
			c.Pools = append(c.Pools, host.PoolConfig{Name: "fast", Path: "/mnt/fast"}, host.PoolConfig{Name: "nfs", Path: "/mnt/a,b", Shared: true})
		}},
		{[]string{"--bridge", "lan=eth1"}, func(c *agent.Config) {
			c.Network.Bridges = append(c.Network.Bridges, host.BridgeConfig{Name: "lan", Uplink: "eth1"})
		}},
	} {
		t.Run(strings.Join(tc.args, " "), func(t *testing.T) {
			got, err := configOf(t, append(base, tc.args...)...)
			if err != nil {
				t.Fatal(err)
			}
			want := plain
			want.Pools = append([]host.PoolConfig(nil), plain.Pools...)
			tc.change(&want)
			if !reflect.DeepEqual(got, want) {
				t.Errorf("got  %+v\nwant %+v", got, want)
			}
		})
	}
}

// Without --name a host is called as its machine, which must be a good name.
func TestHostIsNamedAsItsMachine(t *testing.T) {
	config, err := configOf(t, "--advertise", "192.0.2.1")
	if err != nil && !strings.Contains(err.Error(), "name:") {
		t.Fatal(err)
	}
	if config.Name == "" || config.Name != strings.ToLower(config.Name) || strings.Contains(config.Name, ".") {
		t.Errorf("named %q", config.Name)
	}
}
