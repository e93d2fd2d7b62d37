package domain

import (
	"testing"

	"pgregory.net/rapid"
)

// What the API accepts, a host that has everything can start: a fault that needs no
// host to be seen is told to who made it.
func TestWhatIsAcceptedConverts(t *testing.T) {
	for name, host := range ampleHosts {
		t.Run(name, rapid.MakeCheck(func(t *rapid.T) {
			if _, _, err := Convert(everything(accepted(t), host)); err != nil {
				t.Error(err)
			}
		}))
	}
}
