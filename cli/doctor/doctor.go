// Package doctor says whether a machine can be a host, and what to do about what is in the
// way. It reads first (Read), which changes nothing, and then judges: every check is a
// function of the Facts alone. What it can put right safely is a Repair, which is a value
// until Apply carries it out.
package doctor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"virtmesh/agent/host"
	"virtmesh/storage/durable"
)

// Finding is the outcome of one check.
type Finding struct {
	Check  string `json:"check"`
	Result Result `json:"result"`
	Detail string `json:"detail"`
	// Fix says what to do; empty when there is nothing to do.
	Fix string `json:"fix,omitempty"`
	// Repair does what Fix says; nil where a person must decide.
	Repair *Repair `json:"-"`
}

// Result says how a check ended.
type Result string

// Results of a check. A warning does not keep a host from joining.
const (
	Passed  Result = "ok"
	Warning Result = "warning"
	Failed  Result = "failed"
)

func pass(check, detail string) []Finding {
	return []Finding{{Check: check, Result: Passed, Detail: detail}}
}

func warn(check, detail, fix string) []Finding {
	return []Finding{{Check: check, Result: Warning, Detail: detail, Fix: fix}}
}

func fail(check, detail, fix string) []Finding {
	return []Finding{{Check: check, Result: Failed, Detail: detail, Fix: fix}}
}

// repairedBy adds a repair to the only finding of a check.
func repairedBy(findings []Finding, repair Repair) []Finding {
	findings[0].Repair = &repair
	return findings
}

// Examine judges what was read of a machine, in the order in which a host needs it.
func Examine(facts Facts) []Finding {
	checks := []func(Facts) []Finding{
		checkRoot, checkConfig, checkMembership, checkVirtualization, checkPrograms, checkFirmware,
		checkLibvirt, checkDaemonLimits, checkGuestsService, checkShutdown, checkQEMUUser, checkGuestUIDs, checkSeccomp, checkConfinement, checkMemoryLimit,
		checkKernel, checkFilesystems, checkPaths, checkPools, checkClock,
		checkNeighbours, checkNetworkd, checkRoutes, checkNameServers, checkPorts, checkService, checkGuestServices, checkKeyring, checkSeal,
	}
	if facts.Config.Role == host.RoleWitness { // it needs nothing that guests need
		checks = []func(Facts) []Finding{checkRoot, checkConfig, checkMembership, checkFilesystems, checkClock, checkPorts, checkService, checkKeyring, checkSeal}
	}
	var findings []Finding
	for _, check := range checks {
		findings = append(findings, check(facts)...)
	}
	return findings
}

// Repair is a change that can be made without asking: it can be taken back, and takes
// nothing away from anybody. Files are written first, then the commands run in order.
type Repair struct {
	Files    []File
	Commands [][]string
}

// File is a configuration file that belongs to the mesh alone.
type File struct{ Path, Text string }

// String says what the repair does, in one line.
func (r Repair) String() string {
	var steps []string
	for _, file := range r.Files {
		steps = append(steps, "write "+file.Path)
	}
	for _, command := range r.Commands {
		steps = append(steps, strings.Join(command, " "))
	}
	return strings.Join(steps, "; ")
}

// Apply carries the repair out, and stops at the first step that fails. It may be called
// again.
func (r Repair) Apply(ctx context.Context) error {
	for _, file := range r.Files {
		err := os.MkdirAll(filepath.Dir(file.Path), 0o755)
		if err = errors.Join(err, durable.WriteFile(file.Path, []byte(file.Text), 0o644)); err != nil {
			return fmt.Errorf("write %s: %w", file.Path, err)
		}
	}
	for _, command := range r.Commands {
		if out, err := exec.CommandContext(ctx, command[0], command[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w%s", strings.Join(command, " "), err, complaint(out))
		}
	}
	return nil
}

// complaint is what a program said, to follow its exit status.
func complaint(out []byte) string {
	if said := strings.TrimSpace(string(out)); said != "" {
		return ": " + said
	}
	return ""
}
