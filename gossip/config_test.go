package gossip

import (
	"strings"
	"testing"
	"time"
)

func TestConfigRules(t *testing.T) {
	good := func() Config {
		c := DefaultConfig()
		c.Name = "host1"
		return c
	}
	if err := good().Validate(); err != nil {
		t.Fatalf("the default: %v", err)
	}
	for field, spoil := range map[string]func(*Config){
		"Name":              func(c *Config) { c.Name = "" },
		"Mesh":              func(c *Config) { c.Mesh = strings.Repeat("m", 65) },
		"BindAddr":          func(c *Config) { c.BindAddr = "host" },
		"BindPort":          func(c *Config) { c.BindPort = 70000 },
		"AdvertiseAddr":     func(c *Config) { c.AdvertiseAddr = "host" },
		"AdvertisePort":     func(c *Config) { c.AdvertisePort = -1 },
		"Keys[1]":           func(c *Config) { c.Keys = [][]byte{make([]byte, 32), make([]byte, 5)} },
		"DeadRetention":     func(c *Config) { c.DeadRetention = 0 },
		"LeftRetention":     func(c *Config) { c.LeftRetention = -1 },
		"ReconnectInterval": func(c *Config) { c.ReconnectInterval = 0 },
		"ReconnectMax":      func(c *Config) { c.ReconnectMax = c.ReconnectInterval - 1 },
		"ProbeInterval":     func(c *Config) { c.Profile.ProbeInterval = 0 },
		"ProbeTimeout":      func(c *Config) { c.Profile.ProbeTimeout = c.Profile.ProbeInterval / 2 },
		"IndirectProbes":    func(c *Config) { c.Profile.IndirectProbes = -1 },
		"SuspicionMult":     func(c *Config) { c.Profile.SuspicionMult = 1 },
		"SuspicionMaxMult":  func(c *Config) { c.Profile.SuspicionMaxMult = 0 },
		"HealthMax":         func(c *Config) { c.Profile.HealthMax = 0 },
		"GossipInterval":    func(c *Config) { c.Profile.GossipInterval = 0 },
		"GossipNodes":       func(c *Config) { c.Profile.GossipNodes = 0 },
		"RetransmitMult":    func(c *Config) { c.Profile.RetransmitMult = 0 },
		"SyncInterval":      func(c *Config) { c.Profile.SyncInterval = 0 },
		"Hold":              func(c *Config) { c.Profile.Hold = -time.Second },
	} {
		c := good()
		spoil(&c)
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), field+":") && !strings.Contains(err.Error(), field+",") {
			t.Errorf("%s: got %v, want an error that names it", field, err)
		}
		if _, err := New(c); err == nil {
			t.Errorf("%s: New took it", field)
		}
	}
}
