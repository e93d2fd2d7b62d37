package libvirt

import (
	"fmt"
	"regexp"

	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"

	"virtmesh/agent/host/hypervisor"
)

// noCPUController is libvirt's message when the cgroup controller for CPU time is
// missing, or libvirt may not use it. Only a start shows that.
var noCPUController = regexp.MustCompile(`(?i)cgroup cpu is required|CPU tuning is not available`)

func lacksCPUController(err error) bool {
	return is(err, libvirt.ERR_CONFIG_UNSUPPORTED) && noCPUController.MatchString(err.Error())
}

// withoutCPUTime removes the weight and the limits of CPU time from a definition. had
// is false if the definition has none. The pinning of threads to CPUs stays.
func withoutCPUTime(xml string) (plain string, had bool, err error) {
	definition := &libvirtxml.Domain{}
	if err := definition.Unmarshal(xml); err != nil {
		return "", false, fmt.Errorf("%w: %w", hypervisor.ErrInvalid, err)
	}
	tune := definition.CPUTune
	if tune == nil || tune.Shares == nil && tune.GlobalQuota == nil && tune.Quota == nil {
		return xml, false, nil
	}
	tune.Shares, tune.GlobalPeriod, tune.GlobalQuota, tune.Period, tune.Quota = nil, nil, nil, nil, nil
	if plain, err = definition.Marshal(); err != nil {
		return "", false, fmt.Errorf("encode the domain: %w", err)
	}
	return plain, true, nil
}
