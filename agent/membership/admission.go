package membership

import (
	"crypto/x509"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"virtmesh/agent/identity"
)

// Admission decides which hosts and which certificates are accepted. The zero value
// accepts no host. Its methods may be called concurrently.
type Admission struct {
	hosts atomic.Pointer[identity.Hosts]
}

// errNotOpen refuses other hosts while this one starts.
var errNotOpen = errors.New("this host's replica is not open yet")

// open makes Admit accept the hosts that the records in hosts allow.
func (a *Admission) open(hosts *identity.Hosts) { a.hosts.Store(hosts) }

// Admit refuses machines that were removed and whose certificates are still valid.
// Until the replica is open it refuses every host, because the removals are not known
// yet, and a removed machine that was accepted then would keep its connection.
func (a *Admission) Admit(node identity.Node) error {
	hosts := a.hosts.Load()
	if hosts == nil {
		return errNotOpen
	}
	return hosts.Admit(node)
}

// StillMember refuses machines whose membership has ended, for what they sign. Until the
// replica is open it refuses every host.
func (a *Admission) StillMember(node identity.Node) error {
	hosts := a.hosts.Load()
	if hosts == nil {
		return errNotOpen
	}
	return hosts.StillMember(node)
}

// Judge returns an error if a verified client certificate is no longer valid: it has
// expired since its connection was made, or it names a host that was removed.
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
