package cli

import (
	"context"
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"strings"
)

// unit is the service that runs the agent on a real host.
//
//go:embed virtmesh.service
var unit string

// unitPath is where an administrator's units live.
const unitPath = "/etc/systemd/system/virtmesh.service"

// startService installs and starts the agent's unit. It returns false on a machine
// whose init is not systemd.
func startService(ctx context.Context) (bool, error) {
	if _, err := os.Stat("/run/systemd/system"); err != nil {
		return false, nil
	}
	executable, err := os.Executable()
	if err != nil {
		return false, fmt.Errorf("find this program: %w", err)
	}
	text := strings.Replace(unit, "/usr/local/bin/virtmesh", executable, 1)
	if err := os.WriteFile(unitPath, []byte(text), 0o644); err != nil {
		return false, fmt.Errorf("install the service: %w", err)
	}
	for _, args := range [][]string{{"daemon-reload"}, {"enable", "--now", "virtmesh.service"}} {
		if out, err := exec.CommandContext(ctx, "systemctl", args...).CombinedOutput(); err != nil {
			return false, fmt.Errorf("systemctl %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
		}
	}
	return true, nil
}
