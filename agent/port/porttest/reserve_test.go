package porttest_test

import (
	"fmt"
	"net"
	"testing"

	"virtmesh/agent/port/porttest"
)

// A reserved port is the test's alone: the kernel gives it to nobody, though nobody listens.
func TestReserved(t *testing.T) {
	port := porttest.Reserve(t)
	for range 2 {
		l, err := net.Listen("tcp", fmt.Sprintf("0.0.0.0:%d", port))
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	seen := map[int]bool{port: true}
	for range 100 {
		other := porttest.Reserve(t)
		if seen[other] {
			t.Fatalf("port %d is given twice", other)
		}
		seen[other] = true
	}
}
