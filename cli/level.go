package cli

import (
	"errors"
	"fmt"
	"math"
	"net/http"
	"strings"

	"github.com/urfave/cli/v2"

	"virtmesh/agent/fault"
	"virtmesh/agent/level"
	"virtmesh/agent/port/admin"
)

func levelCommand() *cli.Command {
	return &cli.Command{
		Name: "level", Usage: "show and raise the mesh's feature level",
		Description: "The feature level says which rules, kinds and formats the mesh uses. Upgraded hosts use what is new once the mesh is raised.",
		Flags:       []cli.Flag{outputFlag()}, Action: levelShow,
		Subcommands: []*cli.Command{
			{Name: "raise", Usage: "let the mesh use what all its hosts know; this cannot be taken back", Action: levelRaise,
				Flags: []cli.Flag{yesFlag(),
					&cli.UintFlag{Name: "to", Usage: "the level (default: the highest that every host knows)"}}},
		},
	}
}

// meshLevel is what 'virtmesh level' prints with -o json.
type meshLevel struct {
	admin.Level
	// Hosts lists the hosts of the mesh with what each knows.
	Hosts []levelHost `json:"hosts"`
}

// levelHost is one host of a meshLevel.
type levelHost struct {
	Name    string `json:"name"`
	State   string `json:"state"`
	Version string `json:"version,omitempty"`
	// Highest is the highest feature level that the host knows, 0 if it is not known.
	Highest uint32 `json:"highest"`
}

func readLevel(c *cli.Context) (*connection, *meshLevel, error) {
	conn, err := connect(c)
	if err != nil {
		return nil, nil, err
	}
	var s admin.Status
	if err := conn.mesh(c.Context, http.MethodGet, statusPath, nil, &s); err != nil {
		return nil, nil, err
	}
	if s.Level == nil {
		return nil, nil, fmt.Errorf("%s cannot tell the mesh's feature level: %s", s.Host, strings.Join(append(s.Warnings, "it has no copy of the mesh's state"), "; "))
	}
	l := &meshLevel{Level: *s.Level}
	for _, m := range s.Members {
		l.Hosts = append(l.Hosts, levelHost{m.Name, m.State, m.Version, m.FeatureLevel})
	}
	return conn, l, nil
}

func levelShow(c *cli.Context) error {
	_, l, err := readLevel(c)
	if err != nil {
		return err
	}
	if printed, err := printValue(c, l); printed {
		return err
	}
	w := c.App.Writer
	fmt.Fprintf(w, "Level:   %s\nPolicy:  %s\n\n", levelSentence(&l.Level), l.Policy)
	rows := make([][]string, 0, len(l.Hosts))
	for _, h := range l.Hosts {
		highest := "?"
		if h.Highest > 0 {
			highest = fmt.Sprint(h.Highest)
		}
		rows = append(rows, []string{h.Name, h.State, h.Version, highest})
	}
	if err := printColumns(w, []string{"NAME", "STATE", "VERSION", "KNOWS UP TO"}, rows); err != nil {
		return err
	}
	if len(l.Brings) > 0 {
		fmt.Fprintln(w, "\nA raise brings:")
		printBrings(c, l, l.Newest)
	}
	return nil
}

// printBrings prints what the levels above the mesh's bring, up to one.
func printBrings(c *cli.Context, l *meshLevel, to uint32) {
	for _, next := range l.Brings {
		if next.Number <= to {
			fmt.Fprintf(c.App.Writer, "  %d: %s\n", next.Number, next.Brings)
		}
	}
}

// levelSentence says at which feature level the mesh is, and whether it can be raised or
// who holds that up.
func levelSentence(l *admin.Level) string {
	text := fmt.Sprint(l.Mesh)
	switch {
	case l.Reachable > l.Mesh && l.Policy == "Automatic":
		text += fmt.Sprintf("; every host knows %d, and the mesh raises itself to it once they have for ten minutes", l.Reachable)
	case l.Reachable > l.Mesh:
		text += fmt.Sprintf("; every host knows %d: 'virtmesh level raise' lets the mesh use it", l.Reachable)
	}
	text += heldUp(l.HeldUpBy, fmt.Sprintf("up %d", l.Newest))
	return text + heldUp(l.Unheard, "a raise up: no answer")
}

// heldUp says that hosts hold something up.
func heldUp[H any](hosts []H, what string) string {
	if len(hosts) == 0 {
		return ""
	}
	verb := "holds"
	if len(hosts) > 1 {
		verb = "hold"
	}
	return fmt.Sprintf("; %s %s %s", level.NameHosts(hosts), verb, what)
}

// manyHosts is how many hosts take long enough to answer that a user is told to wait.
const manyHosts = 20

func levelRaise(c *cli.Context) error {
	conn, l, err := readLevel(c)
	if err != nil {
		return err
	}
	to := l.Reachable
	if c.IsSet("to") {
		wanted := c.Uint("to")
		if wanted < 1 || wanted > math.MaxUint32 {
			return fmt.Errorf("--to %d is no feature level; 'virtmesh level' shows which there are", wanted)
		}
		to = uint32(wanted)
	}
	switch {
	case to == l.Mesh && c.IsSet("to"):
		fmt.Fprintf(c.App.Writer, "the mesh is at feature level %d already\n", to)
		return nil
	case to == l.Mesh && l.Newest == l.Mesh:
		return fault.New(fault.Conflict, "the mesh is at feature level %d, and no host knows a higher one: there is nothing to raise", l.Mesh)
	case to == l.Mesh:
		return fault.New(fault.Conflict, "the mesh cannot be raised yet: it is at feature level %s", levelSentence(&l.Level))
	}
	if !c.Bool("yes") {
		if to > l.Mesh {
			fmt.Fprintf(c.App.Writer, "A raise from feature level %d to %d brings:\n", l.Mesh, to)
			printBrings(c, l, to)
		}
		return errors.New("a raise cannot be taken back: afterwards no host can go back to a version that does not know the level; repeat with --yes")
	}
	if n := len(l.Hosts); n >= manyHosts {
		fmt.Fprintf(c.App.ErrWriter, "asking %d hosts whether they know feature level %d\n", n, to)
	}
	if err := conn.mesh(c.Context, http.MethodPost, "/mesh/v1/level", admin.LevelRequest{To: to}, nil); err != nil {
		return err
	}
	fmt.Fprintf(c.App.Writer, "the mesh is at feature level %d\n", to)
	return nil
}
