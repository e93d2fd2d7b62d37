package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os/exec"
	"strings"

	"github.com/urfave/cli/v2"

	"virtmesh/agent"
	"virtmesh/agent/host"
)

func shutdownGuestsCommand() *cli.Command {
	return &cli.Command{
		Name: "shutdown-guests", Usage: "shut all guests down with the host; the unit virtmesh-shutdown does this",
		Description: "It does so only while the host is being shut down, unless --yes is given; then stop the agent first. " +
			"A guest that takes longer than its terminationGracePeriodSeconds, or than hypervisor.shutdownSeconds of the configuration, loses its power. " +
			"When the agent runs again, machines come back by their run strategies.",
		Flags: []cli.Flag{configFlag(), yesFlag()}, Action: shutdownGuests,
	}
}

func shutdownGuests(c *cli.Context) error {
	log := slog.New(slog.NewTextHandler(c.App.ErrWriter, nil))
	stopping := hostIsStopping(c.Context)
	config, err := agent.LoadConfig(c.String("config"))
	switch {
	case err != nil && !stopping:
		return err
	case err != nil:
		log.Error("the configuration cannot be used: guests are shut down with what can be read of it", "err", err)
		config = agent.SalvageConfig(c.String("config"))
	case stopping:
	case !c.Bool("yes"):
		_, err := fmt.Fprintln(c.App.Writer, "this host is not being shut down, so its guests go on; --yes shuts them down all the same")
		return err
	case agentAnswers(config.Socket()):
		return errors.New("this host's agent runs, and would take its guests for guests that ended by themselves: stop it first ('systemctl stop virtmesh')")
	}
	if err := host.ShutDownGuests(c.Context, config.HostConfig, log); err != nil {
		return fmt.Errorf("shut the guests of this host down: %w", err)
	}
	return nil
}

// hostIsStopping reports whether systemd is about to stop the machine. One that is shut down
// before its start has ended says "starting", in some versions; so the target of each shutdown,
// which is queued or reached then, is looked at, too.
func hostIsStopping(ctx context.Context) bool {
	says := func(args ...string) string {
		// is-system-running exits with an error in all states but one.
		out, _ := exec.CommandContext(ctx, "systemctl", args...).Output()
		return strings.TrimSpace(string(out))
	}
	if says("is-system-running") == "stopping" {
		return true
	}
	job := says("show", "shutdown.target", "-P", "Job")
	return job != "" && job != "0" || says("show", "shutdown.target", "-P", "ActiveState") == "active"
}

func agentAnswers(socket string) bool {
	conn, err := net.Dial("unix", socket)
	if err == nil {
		conn.Close()
	}
	return err == nil
}
