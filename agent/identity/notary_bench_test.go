package identity_test

import (
	"testing"

	"virtmesh/agent/identity"
	"virtmesh/agent/identity/identitytest"
)

// BenchmarkVerifySignature measures what a follower pays for each voter's statement.
func BenchmarkVerifySignature(b *testing.B) {
	m := identitytest.NewMesh(b)
	n := identity.NewNotary(m.First, identity.NewHosts(m.Store).StillMember)
	message := make([]byte, 250)
	signed, err := n.Sign(message)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := n.Verify(message, signed); err != nil {
			b.Fatal(err)
		}
	}
}
