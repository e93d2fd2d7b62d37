package cli

import (
	"fmt"
	"net/http"

	"github.com/urfave/cli/v2"

	"virtmesh/agent/port/admin"
)

func statusCommand() *cli.Command {
	return &cli.Command{
		Name: "status", Usage: "show the mesh's health at a glance",
		Description: "Exits with status 3 when there are warnings.",
		Flags:       []cli.Flag{outputFlag()},
		Action:      status,
	}
}

func status(c *cli.Context) error {
	conn, err := connect(c)
	if err != nil {
		return err
	}
	var s admin.Status
	if err := conn.mesh(c.Context, http.MethodGet, statusPath, nil, &s); err != nil {
		return err
	}
	printed, err := printValue(c, s)
	if !printed {
		err = printStatus(c, &s)
	}
	if err == nil && len(s.Warnings) > 0 {
		return exitError{code: 3}
	}
	return err
}

// counted is a number of things, with an s where there is not one.
func counted(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

func printStatus(c *cli.Context, s *admin.Status) error {
	alive, voters := 0, 0
	rows := make([][]string, 0, len(s.Members))
	for _, m := range s.Members {
		if m.State == "alive" {
			alive++
		}
		if m.Role == "voter" || m.Role == "leader" {
			voters++
		}
		lag := "?"
		if m.Lag >= 0 {
			lag = fmt.Sprint(m.Lag)
		}
		acceleration := "emulation"
		if m.KVM {
			acceleration = "kvm"
		}
		role := m.Role
		if m.MayNotVote {
			role += " (may not vote)"
		}
		rows = append(rows, []string{m.Name, m.State, role, m.MeshAddress, m.Zone, acceleration, lag, m.Version})
	}
	leader := s.Leader
	if leader == "" {
		leader = "none (no quorum: VMs keep running, nothing can be changed)"
	}
	w := c.App.Writer
	fmt.Fprintf(w, "Mesh:     %s, seen from %s\nMembers:  %d of %d alive, %s\nLeader:   %s (term %d)\nRevision: %d\n",
		s.MeshID, s.Host, alive, len(s.Members), counted(voters, "voter"), leader, s.Term, s.Revision)
	if s.Level != nil {
		fmt.Fprintf(w, "Level:    %s\n", levelSentence(s.Level))
	}
	if s.Keyring != nil {
		fmt.Fprintf(w, "Keyring:  %s\n", keyringSentence(s.Keyring))
	}
	fmt.Fprintln(w)
	if err := printColumns(w, []string{"NAME", "STATE", "ROLE", "ADDRESS", "ZONE", "GUESTS BY", "LAG", "VERSION"}, rows); err != nil {
		return err
	}
	if len(s.Warnings) > 0 {
		fmt.Fprintln(w)
	}
	for _, warning := range s.Warnings {
		fmt.Fprintln(w, "Warning: "+warning)
	}
	return nil
}
