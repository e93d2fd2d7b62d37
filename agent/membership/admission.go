package membership

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"virtmesh/agent/fault"
	"virtmesh/agent/identity"
	"virtmesh/agent/port"
)

// Admission decides which hosts and which certificates are accepted. The zero value
// accepts no host. Its methods may be called concurrently.
type Admission struct {
	records atomic.Pointer[admissionRecords]
}

// admissionRecords are what an Admission decides by.
type admissionRecords struct {
	hosts     *identity.Hosts
	clients   *identity.Clients
	former    *identity.FormerCAs
	newcomers *newcomers
}

// NewAdmission returns an Admission that decides by the records in a store, of which group
// says how far it is, by a list of the mesh's voters (nil: there is none), and by the CAs that
// this host trusts (PEM; nil: those in the store). The one of a Member opens by itself.
func NewAdmission(store identity.Store, group Group, list VoterList, trust func() []byte) *Admission {
	a := &Admission{}
	a.open(store, group, list, trust)
	return a
}

// errNotOpen refuses other hosts while this one starts.
var errNotOpen = errors.New("this host's replica is not open yet")

// open makes Admit accept the hosts, and Judge the people, that the records in the store
// allow.
func (a *Admission) open(store identity.Store, group Group, list VoterList, trust func() []byte) {
	if list == nil {
		list = noList{}
	}
	a.records.Store(&admissionRecords{identity.NewHosts(store), identity.NewClients(store), identity.NewFormerCAs(store, trust), newNewcomers(group, list)})
}

// Admit refuses machines that were removed and whose certificates are still valid, those
// whose key is not that of the host in their certificate, and those of which this host's
// copy of the state knows nothing, unless they may be newer than the copy.
// To a keyring it refuses whoever has the name of a voter and another key than the voters have
// signed, whatever the records say. Until the replica is open it refuses every host, because the removals are not known
// yet, and a removed machine that was accepted then would keep its connection.
func (a *Admission) Admit(peer port.Peer) error {
	records := a.records.Load()
	if records == nil {
		return errNotOpen
	}
	if known, err := records.newcomers.overrules(peer.Node, peer.Key); known && err != nil {
		return err
	}
	if peer.Proto == port.ProtoKeyring && records.newcomers.isImpostor(peer.Node, peer.Key) {
		return impostorFault(peer.Node)
	}
	err := records.hosts.Admit(peer.Node, peer.Key)
	if errors.Is(err, identity.ErrUnrecorded) && records.newcomers.takes(peer) {
		return nil
	}
	return err
}

// StillMember refuses machines whose membership has ended, and what else Admit refuses, for
// what they sign. Until the replica is open it refuses every host.
func (a *Admission) StillMember(node identity.Node, key identity.Pin) error {
	records := a.records.Load()
	if records == nil {
		return errNotOpen
	}
	if known, err := records.newcomers.overrules(node, key); known {
		return err
	}
	err := records.hosts.StillMember(node, key)
	if errors.Is(err, identity.ErrUnrecorded) && records.newcomers.takes(port.Peer{Node: node, Key: key, Proto: port.ProtoRaft}) {
		return nil
	}
	return err
}

// Judge returns an error if a verified client certificate is not or no longer valid: it has
// expired since its connection was made, it names a host that was removed or has another key, or it is a
// person's and was revoked or is not listed. It may ask the mesh, for a bounded time.
func (a *Admission) Judge(ctx context.Context, cert *x509.Certificate) error {
	if err := expired(cert); err != nil {
		return err
	}
	if identity.ClaimsNode(cert) {
		peer, err := peerOf(cert)
		if err != nil {
			return err
		}
		return a.Admit(peer)
	}
	records := a.records.Load()
	if records == nil {
		return errNotOpen
	}
	if err := records.judgeFormer(cert); err != nil {
		return err
	}
	return records.clients.Judge(ctx, cert)
}

// judgeFormer returns an error for a person's certificate that a CA of before has signed, if that
// is not taken any more, or not listed.
func (r *admissionRecords) judgeFormer(cert *x509.Certificate) error {
	former, err := r.former.Check(cert)
	if err == nil && former {
		err = r.clients.MustBeListed(cert)
	}
	return err
}

// ClientCAs returns the CAs with which certificates of people are verified now, besides those
// that hosts are verified with.
func (a *Admission) ClientCAs(roots *x509.CertPool) *x509.CertPool {
	records := a.records.Load()
	if records == nil {
		return roots
	}
	return records.former.AddTo(roots)
}

// Ended returns an error if an open connection must not go on that was made with a
// certificate: its host was removed or has another key, or it is a person's and has ended, was revoked or is not
// listed. Connections of hosts outlive their certificates, which are renewed. What is
// not known for certain ends no connection. It does not block.
func (a *Admission) Ended(cert *x509.Certificate) error {
	if identity.ClaimsNode(cert) {
		return a.hostEnded(cert)
	}
	if err := expired(cert); err != nil {
		return err
	}
	records := a.records.Load()
	if records == nil {
		return nil
	}
	for _, err := range []error{records.judgeFormer(cert), records.clients.Ended(cert)} {
		if errors.Is(err, fault.Unauthorized) {
			return err
		}
	}
	return nil
}

func (a *Admission) hostEnded(cert *x509.Certificate) error {
	peer, err := peerOf(cert)
	records := a.records.Load()
	if err != nil || records == nil {
		return nil
	}
	if known, err := records.newcomers.overrules(peer.Node, peer.Key); known && err != nil {
		return err
	}
	err = records.hosts.Admit(peer.Node, peer.Key)
	ended := errors.Is(err, fault.Expelled) || errors.Is(err, identity.ErrOtherKey) ||
		errors.Is(err, identity.ErrUnrecorded) && !records.newcomers.keeps(peer)
	if !ended {
		return nil
	}
	return err
}

// peerOf returns the host that has shown a certificate for the API.
func peerOf(cert *x509.Certificate) (port.Peer, error) {
	node, err := identity.NodeOf(cert)
	return port.Peer{Node: node, Key: identity.PinOf(cert), Proto: port.ProtoAPI}, err
}

func expired(cert *x509.Certificate) error {
	if time.Now().After(cert.NotAfter) {
		return fmt.Errorf("the client certificate ended at %s", cert.NotAfter.Format(time.RFC3339))
	}
	return nil
}
