package membership

import (
	"crypto/x509"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"virtmesh/agent/identity"
)

// Admission decides which hosts and which certificates are let in. The zero
// value lets no host in. Its methods may be called at once.
type Admission struct {
	hosts atomic.Pointer[identity.Hosts]
}

// errNotOpen refuses other hosts while this one starts.
var errNotOpen = errors.New("this host's replica is not open yet")

// open lets hosts in from now on that hosts has nothing against.
func (a *Admission) open(hosts *identity.Hosts) { a.hosts.Store(hosts) }

// Admit turns away machines that were removed while their certificates last.
// Before the replica is open nothing is known against anybody, so all must wait:
// who slipped in then would be served later.
func (a *Admission) Admit(node identity.Node) error {
	hosts := a.hosts.Load()
	if hosts == nil {
		return errNotOpen
	}
	return hosts.Admit(node)
}

// Judge says why a verified client certificate is good no more: it has ended
// since its connection was made, or names a host that was removed.
func (a *Admission) Judge(cert *x509.Certificate) error {
	if time.Now().After(cert.NotAfter) {
		return fmt.Errorf("the client certificate ended at %s", cert.NotAfter.Format(time.RFC3339))
	}
	if !identity.ClaimsNode(cert) {
		return nil
	}
	node, err := identity.NodeOf(cert)
	if err != nil {
		return err
	}
	return a.Admit(node)
}
