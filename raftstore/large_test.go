//go:build !race

package raftstore_test

import (
	"testing"
	"testing/synctest"
)

// TestLargeGroup runs five hundred replicas, for which the race detector would take minutes.
func TestLargeGroup(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a while")
	}
	synctest.Test(t, func(t *testing.T) { testMany(t, 500) })
}
