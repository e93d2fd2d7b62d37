package kvmprobe

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// emulator is a script that stands in for QEMU.
func emulator(t *testing.T, script string) Config {
	t.Helper()
	path := filepath.Join(t.TempDir(), "qemu")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	c := DefaultConfig()
	c.Emulator, c.User, c.Device = path, "", "/dev/null"
	return c
}

func TestVerdicts(t *testing.T) {
	for name, tc := range map[string]struct {
		script string
		usable bool
		reason string
	}{
		"all stages":    {"printf RPLCMT; exit 85", true, "ran with KVM"},
		"wrong exit":    {"printf RPLCMT; exit 1", false, "ended in exit"},
		"not all":       {"printf RPL; exit 85", false, "ended in long mode"},
		"complains":     {"echo 'Could not access KVM kernel module: Permission denied' >&2; exit 1", false, "Permission denied"},
		"nothing":       {"exit 0", false, "before its first instruction"},
		"crash":         {"printf RP; kill -ABRT $$", false, "ended in protected mode"},
		"out of order":  {"printf TRLP; exit 85", false, "ended in protected mode"},
		"stuck":         {"printf RPL; exec sleep 60", false, "stuck in long mode"},
		"stuck at once": {"exec sleep 60", false, "stuck before its first instruction"},
		"floods":        {"printf RPL; yes >&2 & printf CMT; exit 85", true, "ran with KVM"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := emulator(t, tc.script)
			if strings.HasPrefix(name, "stuck") {
				c.StageTimeout = time.Second
			}
			got, err := Probe(t.Context(), c)
			if err != nil {
				t.Fatal(err)
			}
			if got.Usable != tc.usable || !strings.Contains(got.Reason, tc.reason) {
				t.Errorf("got %+v", got)
			}
		})
	}
}

func TestConfigurationOverrides(t *testing.T) {
	c := emulator(t, "exit 1")
	for mode, usable := range map[Mode]bool{KVM: true, TCG: false} {
		c.Mode = mode
		got, err := Probe(t.Context(), c)
		if err != nil || got.Usable != usable || !strings.Contains(got.Reason, "configuration") {
			t.Errorf("%s: %+v, %v", mode, got, err)
		}
	}
	c.Mode = "perhaps"
	if _, err := Probe(t.Context(), c); err == nil || !strings.Contains(err.Error(), "Mode") {
		t.Errorf("bad mode: %v", err)
	}
}

func TestNoDeviceMeansNoKVM(t *testing.T) {
	c := emulator(t, "printf RPLCMT; exit 85")
	c.Device = "/dev/there-is-no-such-device"
	got, err := Probe(t.Context(), c)
	if err != nil || got.Usable || !strings.Contains(got.Reason, c.Device) {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestEndedContextEndsTheProbe(t *testing.T) {
	c := emulator(t, "exec sleep 60")
	c.StageTimeout = time.Hour
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := Probe(ctx, c); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

// TestPayload runs the real payload. Under QEMU's emulation it must get to its end
// everywhere; whether it does with KVM is what the probe is for.
func TestPayload(t *testing.T) {
	c := DefaultConfig()
	if _, err := os.Stat(c.Emulator); err != nil {
		if os.Geteuid() != 0 {
			t.Skip("needs QEMU, which make packages installs")
		}
		t.Fatalf("needs QEMU, which make packages installs: %v", err)
	}
	c.User = "" // the packages of the test machine may have no such user
	c.StageTimeout = time.Minute
	if err := run(t.Context(), c, "tcg", "max"); err != nil {
		t.Error(err)
	}
	c.StageTimeout = DefaultConfig().StageTimeout
	got, err := Probe(t.Context(), c)
	if err != nil || got.Reason == "" {
		t.Errorf("got %+v, %v", got, err)
	}
	t.Logf("this machine: %+v", got)
}
