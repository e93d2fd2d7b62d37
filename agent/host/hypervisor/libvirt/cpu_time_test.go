package libvirt

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"libvirt.org/go/libvirt"
)

func TestLacksCPUController(t *testing.T) {
	says := func(code libvirt.ErrorNumber, message string) error {
		return fmt.Errorf("start: %w", libvirt.Error{Code: code, Message: message})
	}
	for _, tc := range []struct {
		err  error
		want bool
	}{
		{nil, false},
		{errors.New("cgroup cpu is required for scheduler tuning"), false},
		{says(libvirt.ERR_CONFIG_UNSUPPORTED, "unsupported configuration: cgroup cpu is required for scheduler tuning"), true},
		{says(libvirt.ERR_CONFIG_UNSUPPORTED, "unsupported configuration: CPU tuning is not available on this host"), true},
		{says(libvirt.ERR_CONFIG_UNSUPPORTED, "unsupported configuration: CPU mode is not available"), false},
	} {
		if got := lacksCPUController(tc.err); got != tc.want {
			t.Errorf("%v: got %v", tc.err, got)
		}
	}
}

// What threads run on which CPUs stays when the limits of their time go.
func TestWithoutCPUTime(t *testing.T) {
	const pins = `<cputune><vcpupin vcpu="0" cpuset="2"/></cputune>`
	for xml, want := range map[string]bool{
		`<domain><name>a</name></domain>`:             false,
		`<domain><name>a</name>` + pins + `</domain>`: false,
		`<domain><name>a</name><cputune><shares>2</shares><vcpupin vcpu="0" cpuset="2"/></cputune></domain>`:                                             true,
		`<domain><name>a</name><cputune><global_period>9</global_period><global_quota>8</global_quota><vcpupin vcpu="0" cpuset="2"/></cputune></domain>`: true,
	} {
		plain, had, err := withoutCPUTime(xml)
		if err != nil || had != want {
			t.Errorf("%s: had tuning %v, %v", xml, had, err)
		}
		if strings.Contains(plain, "shares") || strings.Contains(plain, "global_") || strings.Contains(xml, "vcpupin") != strings.Contains(plain, "vcpupin") {
			t.Errorf("%s became %s", xml, plain)
		}
	}
	if _, _, err := withoutCPUTime("<domain"); err == nil {
		t.Error("broken XML is taken")
	}
}
