package libvirt

import (
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"
)

// Config says which libvirt daemon to use, and bounds the waits for it.
type Config struct {
	// URI is the daemon's: qemu:///system, or qemu+unix:///system?socket=/path for
	// another daemon.
	URI string
	// TPMDir is where the daemon keeps the state of TPMs. libvirt 9.0 does not tell.
	TPMDir string
	// ConnectTimeout bounds how long New waits for the first connection. The driver
	// goes on trying afterwards.
	ConnectTimeout time.Duration
	// RetryMin and RetryMax bound the pause between attempts to connect.
	RetryMin, RetryMax time.Duration
	// KeepAlive is the interval between keep-alive messages. After three messages
	// without an answer the connection counts as lost.
	KeepAlive time.Duration
	// CloseTimeout bounds how long Close waits for calls that are under way. An agent
	// must be able to stop, and be upgraded, while its daemon hangs.
	CloseTimeout time.Duration
	// AgentTimeout bounds each command to a guest's agent.
	AgentTimeout time.Duration
	// Emulated makes Capabilities describe guests without KVM while it returns true. It is
	// for hosts that have KVM, but where KVM does not work. Nil stands for false.
	Emulated func() bool
	// Logger logs new and lost connections and metadata that cannot be read; nil
	// discards them.
	Logger *slog.Logger
}

// DefaultConfig returns the settings for the host's own libvirt.
func DefaultConfig() Config {
	return Config{
		URI:            "qemu:///system",
		TPMDir:         "/var/lib/libvirt/swtpm",
		ConnectTimeout: 10 * time.Second,
		RetryMin:       100 * time.Millisecond,
		RetryMax:       5 * time.Second,
		KeepAlive:      5 * time.Second,
		CloseTimeout:   5 * time.Second,
		AgentTimeout:   5 * time.Second,
	}
}

// Validate returns an error that names every invalid field of c.
func (c Config) Validate() error {
	var errs []error
	if c.URI == "" {
		errs = append(errs, errors.New("URI must be set"))
	}
	if !filepath.IsAbs(c.TPMDir) {
		errs = append(errs, fmt.Errorf("TPMDir %q must be an absolute path", c.TPMDir))
	}
	for _, d := range []struct {
		field string
		value time.Duration
	}{
		{"ConnectTimeout", c.ConnectTimeout}, {"RetryMin", c.RetryMin}, {"RetryMax", c.RetryMax}, {"CloseTimeout", c.CloseTimeout},
	} {
		if d.value <= 0 {
			errs = append(errs, fmt.Errorf("%s must be positive", d.field))
		}
	}
	if c.RetryMax < c.RetryMin {
		errs = append(errs, errors.New("RetryMax must not be less than RetryMin"))
	}
	// libvirt takes these in whole seconds.
	if c.KeepAlive < time.Second {
		errs = append(errs, errors.New("KeepAlive must be at least 1s"))
	}
	if c.AgentTimeout < time.Second {
		errs = append(errs, errors.New("AgentTimeout must be at least 1s"))
	}
	return errors.Join(errs...)
}
