package executor

import (
	"strings"
	"testing"
)

func TestEveryFieldOfTheConfigurationIsNeeded(t *testing.T) {
	good := newWorld(t).config
	if err := good.Validate(); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*Config){
		"Host":        func(c *Config) { c.Host = "" },
		"Store":       func(c *Config) { c.Store = nil },
		"Instances":   func(c *Config) { c.Instances = nil },
		"Hypervisor":  func(c *Config) { c.Hypervisor = nil },
		"Volumes":     func(c *Config) { c.Volumes = nil },
		"Network":     func(c *Config) { c.Network = nil },
		"Events":      func(c *Config) { c.Events = nil },
		"GuestDevice": func(c *Config) { c.GuestDevice = "" },
		"Logger":      func(c *Config) { c.Logger = nil },
		"LogDir":      func(c *Config) { c.LogDir = "consoles" },
	} {
		bad := good
		spoil(&bad)
		if _, err := New(bad); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("without %s: %v", name, err)
		}
	}
}
