package host

import (
	"context"
	"os"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"virtmesh/agent/host/daemonconf"
	"virtmesh/agent/objects"
	"virtmesh/storage/program"
)

// qemuConf is libvirt's configuration of emulators.
const qemuConf = "/etc/libvirt/qemu.conf"

// confinement is what keeps this host's guests apart from each other and from the host.
type confinement struct {
	// models are the security models of libvirt.
	models []string
	// settings are those of qemuConf.
	settings map[string]string
	// sandbox says why no image can be converted in the sandbox; nil if images can.
	sandbox error
}

// openConfinement finds out what keeps guests apart here, apart from the security models,
// which libvirt tells.
func openConfinement(ctx context.Context, converters *program.Users) confinement {
	text, err := os.ReadFile(qemuConf)
	if err != nil {
		text = nil // libvirt's defaults hold
	}
	return confinement{
		settings: daemonconf.Parse(string(text)),
		sandbox:  program.Sandbox{User: converters.Next()}.Check(ctx),
	}
}

// under returns the confinement with the security models that libvirt has now.
func (c confinement) under(models []string) confinement {
	c.models = models
	return c
}

// faults says what is missing, in whole clauses.
func (c confinement) faults() []string {
	var faults []string
	if !slices.Contains(c.models, "dac") || c.settings["dynamic_ownership"] == "0" {
		faults = append(faults, "libvirt gives guests no users of their own")
	}
	if c.settings["seccomp_sandbox"] == "0" {
		faults = append(faults, "emulators run without seccomp")
	}
	if !slices.Contains(c.models, "apparmor") && !slices.Contains(c.models, "selinux") {
		faults = append(faults, "libvirt uses neither AppArmor nor SELinux")
	}
	if c.sandbox != nil {
		faults = append(faults, c.sandbox.Error())
	}
	return faults
}

// condition tells on the host's Node how its guests are confined.
func (c confinement) condition() corev1.NodeCondition {
	if faults := c.faults(); len(faults) > 0 {
		return corev1.NodeCondition{Type: objects.NodeGuestsConfined, Status: corev1.ConditionFalse, Reason: "ProtectionMissing",
			Message: strings.Join(faults, "; ") + "; virtmesh doctor on the host says what to do"}
	}
	return corev1.NodeCondition{Type: objects.NodeGuestsConfined, Status: corev1.ConditionTrue, Reason: "Confined",
		Message: "Emulators have users of their own, seccomp and profiles of " + strings.Join(c.models, ", ") + "; images are converted in a sandbox"}
}
