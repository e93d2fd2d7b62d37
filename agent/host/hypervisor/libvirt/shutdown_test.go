package libvirt

import (
	"errors"
	"slices"
	"testing"

	"virtmesh/agent/host/hypervisor"
)

// TestShutdownAsksOnceByTheBestWay: the agent where there is one, the button where there
// is none or it fails, and nobody when the guest is off.
func TestShutdownAsksOnceByTheBestWay(t *testing.T) {
	silent, broken := errors.New("silent"), errors.New("broken")
	for _, c := range []struct {
		name          string
		domain        hypervisor.Domain
		agent, button error
		asked         []string
		refused, err  error
	}{
		{"no agent", hypervisor.Domain{State: hypervisor.StateRunning}, nil, nil, []string{"button"}, nil, nil},
		{"an agent", hypervisor.Domain{State: hypervisor.StateRunning, AgentConnected: true}, nil, broken, []string{"agent"}, nil, nil},
		{"a silent agent", hypervisor.Domain{State: hypervisor.StateRunning, AgentConnected: true}, silent, nil, []string{"agent", "button"}, silent, nil},
		{"nothing works", hypervisor.Domain{State: hypervisor.StatePaused, AgentConnected: true}, silent, broken, []string{"agent", "button"}, silent, broken},
		{"off", hypervisor.Domain{State: hypervisor.StateShutoff}, silent, broken, nil, nil, nil},
	} {
		var asked []string
		ask := func(whom string, answer error) func() error {
			return func() error { asked = append(asked, whom); return answer }
		}
		refused, err := shutDown(c.domain, ask("agent", c.agent), ask("button", c.button))
		if !slices.Equal(asked, c.asked) || !errors.Is(refused, c.refused) || !errors.Is(err, c.err) {
			t.Errorf("%s: asked %v, refused %v, %v", c.name, asked, refused, err)
		}
	}
}
