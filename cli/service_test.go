package cli

import (
	"strings"
	"testing"
)

// TestServiceIsAlwaysRestarted checks that systemd never gives the agent up: a limit on
// starts belongs to [Unit], and systemd ignores it, with a warning, in [Service].
func TestServiceIsAlwaysRestarted(t *testing.T) {
	inUnit, service, _ := strings.Cut(unit, "[Service]")
	if !strings.Contains(inUnit, "\nStartLimitIntervalSec=0\n") {
		t.Error("systemd gives up after a few crashes: the unit's [Unit] section has no StartLimitIntervalSec=0")
	}
	if !strings.Contains(service, "\nRestart=always\n") {
		t.Error("systemd does not restart the agent")
	}
}
