package lab

import (
	"testing"

	"golang.org/x/sync/errgroup"
)

// The kernel removes a host's cables some time after the host's last process. Whoever
// removes them at that moment finds them there and then gone.
func TestLinkThatGoesMeanwhile(t *testing.T) {
	if !alone(t) {
		return
	}
	const name = "vml-test-1"
	for range 20 {
		if err := ip(t.Context(), "link", "add", name, "type", "veth", "peer", "name", "inside"); err != nil {
			t.Fatal(err)
		}
		var removals errgroup.Group
		for range 6 {
			removals.Go(func() error { return deleteLink(t.Context(), name) })
		}
		if err := removals.Wait(); err != nil {
			t.Fatal(err)
		}
		if linkExists(t.Context(), name) {
			t.Fatal("it is still there")
		}
	}
}

// A link that cannot be removed is not passed over.
func TestLinkThatStays(t *testing.T) {
	if !alone(t) {
		return
	}
	if err := deleteLink(t.Context(), "lo"); err == nil {
		t.Error("the loopback interface went")
	}
}
