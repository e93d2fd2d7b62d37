//go:build !race

package gossip_test

import (
	"testing"
	"time"
)

// The race detector would take minutes for meshes as large as these.

func TestLargeMeshKnowsDeaths(t *testing.T) {
	if testing.Short() {
		t.Skip("takes long")
	}
	testDeaths(t, []deaths{
		{members: 100, kills: 5, within: 3 * time.Second},
		{members: 100, loss: 0.05, kills: 5, within: 3 * time.Second},
		{members: 300, loss: 0.05, kills: 3, within: 6 * time.Second},
	})
}

func TestLargeMeshHasNoFalseDeaths(t *testing.T) {
	testNoFalseDeaths(t, []trouble{{name: "loss", members: 100, loss: 0.05}})
}
