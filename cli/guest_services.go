package cli

import (
	"errors"
	"log/slog"
	"runtime/debug"

	"github.com/urfave/cli/v2"

	"virtmesh/netplug/guestservices"
)

// guestServicesCommand runs the process that answers the guests of a host. The agent or
// systemd starts it, never a person.
func guestServicesCommand() *cli.Command {
	return &cli.Command{
		Name: "guest-services", Usage: "answer the DHCP and DNS requests of this host's guests", Hidden: true,
		Flags: []cli.Flag{&cli.PathFlag{Name: "dir", Usage: "the folder that the process shares with the agent (required)"}},
		Action: func(c *cli.Context) error {
			if c.Path("dir") == "" {
				return errors.New("name the folder with --dir")
			}
			// What the program makes when it starts, most of which only the agent needs, goes
			// back to the machine; what guests ask makes little garbage.
			debug.SetGCPercent(50)
			debug.FreeOSMemory()
			return guestservices.Run(c.Context, guestservices.Config{
				Dir: c.Path("dir"), Build: guestservices.BuildOf(Version, guestservices.Self), Inherited: guestservices.Inherited(),
				Logger: slog.New(slog.NewTextHandler(c.App.ErrWriter, nil)),
			})
		},
	}
}
