package cli

import (
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"

	"virtmesh/cli/doctor"
)

func doctorCommand() *cli.Command {
	return &cli.Command{
		Name: "doctor", Usage: "check whether this machine can be a host",
		Description: "Exits with status 1 when a check failed. With --fix, does what can be taken back and takes nothing away from anybody, and checks again.",
		Flags: []cli.Flag{outputFlag(), configFlag(),
			&cli.BoolFlag{Name: "fix", Usage: "put right what is safe to put right, and say what was done"}},
		Action: runDoctor,
	}
}

func runDoctor(c *cli.Context) error {
	findings := doctor.Examine(doctor.Read(c.Context, c.String("config")))
	if c.Bool("fix") && repairFindings(c, findings) {
		findings = doctor.Examine(doctor.Read(c.Context, c.String("config")))
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
