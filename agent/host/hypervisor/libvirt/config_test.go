package libvirt

import (
	"context"
	"strings"
	"testing"
	"time"
)

func TestConfigNamesTheField(t *testing.T) {
	if err := DefaultConfig().Validate(); err != nil {
		t.Fatalf("the defaults are refused: %v", err)
	}
	for field, spoil := range map[string]func(*Config){
		"URI":            func(c *Config) { c.URI = "" },
		"TPMDir":         func(c *Config) { c.TPMDir = "swtpm" },
		"ConnectTimeout": func(c *Config) { c.ConnectTimeout = 0 },
		"RetryMin":       func(c *Config) { c.RetryMin = -time.Second },
		"RetryMax":       func(c *Config) { c.RetryMax = c.RetryMin - 1 },
		"CloseTimeout":   func(c *Config) { c.CloseTimeout = 0 },
		"KeepAlive":      func(c *Config) { c.KeepAlive = 999 * time.Millisecond },
		"AgentTimeout":   func(c *Config) { c.AgentTimeout = 0 },
	} {
		c := DefaultConfig()
		spoil(&c)
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("%s: %v", field, err)
		}
		if d, err := New(t.Context(), c); err == nil {
			t.Errorf("%s: a driver was made", field)
			_ = d.Close()
		}
	}
}

// TestNewGivesUpWithItsContext: an agent that is stopped while it starts leaves nothing.
func TestNewGivesUpWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	c := DefaultConfig()
	c.URI = "qemu+unix:///system?socket=/nowhere/libvirt-sock"
	if _, err := New(ctx, c); err == nil || !strings.Contains(err.Error(), context.Canceled.Error()) {
		t.Errorf("got %v", err)
	}
}
