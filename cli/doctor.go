package cli

import (
	"fmt"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"virtmesh/agent/fault"
	"virtmesh/agent/host"
	"virtmesh/cli/doctor"
)

func doctorCommand() *cli.Command {
	return &cli.Command{
		Name: "doctor", Usage: "check whether this machine can be a host",
		Description: "Exits with status 1 when a check failed. With --fix, does what can be taken back and takes nothing away from anybody, and checks again.",
		Flags: []cli.Flag{outputFlag(), configFlag(),
			&cli.StringFlag{Name: "role", Usage: "judge the machine as a worker or a witness; for one that is not in a mesh yet (default: worker)"},
			&cli.BoolFlag{Name: "fix", Usage: "put right what is safe to put right, and say what was done"}},
		Action: runDoctor,
	}
}

func runDoctor(c *cli.Context) error {
	findings, err := examine(c)
	if err != nil {
		return err
	}
	if c.Bool("fix") && repairFindings(c, findings) {
		if findings, err = examine(c); err != nil {
			return err
		}
	}
	printed, err := printValue(c, findings)
	if !printed {
		err = printFindings(c, findings)
	}
	if err != nil {
		return err
	}
	for _, f := range findings {
		if f.Result == doctor.Failed {
			return exitError{code: 1}
		}
	}
	return nil
}

// examine reads the machine and judges it by the role that it has or shall have.
func examine(c *cli.Context) ([]doctor.Finding, error) {
	role := c.String("role")
	if !slices.Contains([]string{"", host.RoleWorker, host.RoleWitness}, role) {
		return nil, fault.InField("--role", "%q is not %s or %s", role, host.RoleWorker, host.RoleWitness)
	}
	facts := doctor.Read(c.Context, c.String("config"))
	if program := facts.Service.Runs; program != "" {
		facts.Service.ShutdownUnit = unitFor(shutdownUnit, program)
	}
	if facts.Member && role != "" {
		return nil, fault.InField("--role", "is for a machine that is not in a mesh yet").WithRemedy("leave it out: the role of this host is in " + facts.ConfigPath)
	}
	if !facts.Member {
		facts.Config.Role = role
	}
	return doctor.Examine(facts), nil
}

// repairFindings carries out the repairs that there are, and reports whether it tried one.
// It says on standard error what it does, so that -o json stays readable for programs.
func repairFindings(c *cli.Context, findings []doctor.Finding) bool {
	tried := false
	for _, f := range findings {
		if f.Repair == nil {
			continue
		}
		tried = true
		fmt.Fprintf(c.App.ErrWriter, "%s: %s\n", f.Check, f.Repair)
		if err := f.Repair.Apply(c.Context); err != nil {
			fmt.Fprintf(c.App.ErrWriter, "%s: not repaired: %v\n", f.Check, err)
		}
	}
	return tried
}

func printFindings(c *cli.Context, findings []doctor.Finding) error {
	rows := make([][]string, 0, len(findings))
	for _, f := range findings {
		// A program's complaint may have many lines; the table shows the first.
		detail, _, _ := strings.Cut(f.Detail, "\n")
		rows = append(rows, []string{f.Check, string(f.Result), detail})
	}
	if err := printColumns(c.App.Writer, []string{"CHECK", "RESULT", "DETAIL"}, rows); err != nil {
		return err
	}
	repairable := false
	for _, f := range findings {
		if f.Fix != "" {
			fmt.Fprintf(c.App.Writer, "%s: %s\n", f.Check, f.Fix)
		}
		repairable = repairable || f.Repair != nil
	}
	if repairable {
		fmt.Fprintln(c.App.Writer, "'virtmesh doctor --fix' does a part of this.")
	}
	return nil
}
