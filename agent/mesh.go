package agent

import (
	"context"
	"crypto/ecdsa"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"sort"
	"time"

	"virtmesh/agent/identity"
	"virtmesh/agent/port/admin"
	"virtmesh/gossip"
	"virtmesh/raftstore"
)

var _ admin.Mesh = (*Agent)(nil)

// Status implements meshapi.Mesh.
func (a *Agent) Status(ctx context.Context) (*admin.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	replica := a.store.Status(ctx)
	status := &admin.Status{
		Host: a.config.Name, MeshID: a.identity.MeshID(), Version: a.version,
		Leader: replica.Leader, Term: replica.Term, Revision: replica.Revision,
	}
	members := map[string]*admin.Member{}
	records, err := identity.NewHosts(a.store).List(ctx, raftstore.ReadOptions{Consistency: raftstore.Local})
	if err != nil {
		return nil, fmt.Errorf("read the records of the mesh's hosts: %w", err)
	}
	for _, record := range records {
		members[record.Name] = &admin.Member{
			Name: record.Name, MeshAddress: record.MeshAddress, State: "unknown", Role: "none", Version: record.Version, Lag: -1,
		}
	}
	for _, member := range a.gossip.Members() {
		addMember(members, member)
	}
	addReplicas(members, replica)
	for _, member := range members {
		status.Members = append(status.Members, *member)
	}
	sort.Slice(status.Members, func(i, j int) bool { return status.Members[i].Name < status.Members[j].Name })
	status.Warnings = warnings(status, replica)
	return status, nil
}

func addMember(members map[string]*admin.Member, member gossip.Member) {
	m := members[member.Name]
	if m == nil {
		if !member.State.Live() {
			// It left or was removed; gossip remembers it for a while.
			return
		}
		m = &admin.Member{Name: member.Name, Role: "none", Lag: -1}
		members[member.Name] = m
	}
	m.State = member.State.String()
	m.MeshAddress = member.Facts.MeshAddr
	m.Zone, m.KVM, m.Unschedulable = member.Facts.Zone, member.Facts.KVM, member.Facts.Unschedulable
	m.FeatureLevel = uint32(member.Facts.FeatureLevel)
	if member.Facts.Version != "" {
		m.Version = member.Facts.Version
	}
}

func addReplicas(members map[string]*admin.Member, replica raftstore.Status) {
	for _, id := range replica.Voters {
		if m := members[id]; m != nil {
			m.Role = "voter"
		}
	}
	for _, peer := range replica.Peers {
		m := members[peer.ID]
		if m == nil {
			continue
		}
		m.Lag = int64(peer.Lag)
		if !peer.Voter {
			m.Role = "replica"
		}
	}
	if m := members[replica.Leader]; m != nil {
		m.Role = "leader"
	}
}

// warnings says what an operator should look at.
func warnings(status *admin.Status, replica raftstore.Status) []string {
	var list []string
	if status.Leader == "" {
		list = append(list, "there is no leader: running VMs go on, but nothing can be changed until a majority of the voters is back")
	}
	if replica.Failure != "" {
		list = append(list, fmt.Sprintf("the replica on %s: %s", status.Host, replica.Failure))
	}
	versions := map[string]bool{}
	for _, m := range status.Members {
		if m.State != gossip.Alive.String() {
			list = append(list, fmt.Sprintf("%s is %s", m.Name, m.State))
		}
		if m.Version != "" {
			versions[m.Version] = true
		}
	}
	if len(versions) > 1 {
		list = append(list, fmt.Sprintf("%d different versions are running", len(versions)))
	}
	return list
}

// CreateToken implements meshapi.Mesh.
func (a *Agent) CreateToken(ctx context.Context, ttl time.Duration) (*admin.Token, error) {
	token, record, err := identity.NewTokens(a.store).Create(ctx, ttl)
	if err != nil {
		return nil, fmt.Errorf("create a token: %w", err)
	}
	return &admin.Token{ID: token.ID, Secret: token.Encode(), Expires: record.Expires}, nil
}

// ListTokens implements meshapi.Mesh.
func (a *Agent) ListTokens(ctx context.Context) ([]admin.Token, error) {
	records, err := identity.NewTokens(a.store).List(ctx)
	if err != nil {
		return nil, fmt.Errorf("list tokens: %w", err)
	}
	tokens := make([]admin.Token, 0, len(records))
	for _, record := range records {
		token := admin.Token{ID: record.ID, Expires: record.Expires}
		if record.UsedBy != nil {
			token.UsedBy = record.UsedBy.Host
		}
		tokens = append(tokens, token)
	}
	return tokens, nil
}

// RevokeToken implements meshapi.Mesh.
func (a *Agent) RevokeToken(ctx context.Context, id string) error {
	err := identity.NewTokens(a.store).Revoke(ctx, id)
	if errors.Is(err, identity.ErrTokenInvalid) {
		return fmt.Errorf("token %s: %w", id, admin.ErrNotFound)
	}
	return err
}

// IssueCredentials implements meshapi.Mesh.
func (a *Agent) IssueCredentials(ctx context.Context, csrPEM []byte) (*admin.Credentials, error) {
	block, _ := pem.Decode(csrPEM)
	if block == nil || block.Type != "CERTIFICATE REQUEST" {
		return nil, fmt.Errorf("%w: csr is not a PEM certificate request", admin.ErrInvalid)
	}
	var key *ecdsa.PublicKey
	key, err := identity.ParseCSR(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%w: csr: %w", admin.ErrInvalid, err)
	}
	ca, bundle, err := a.signer.CA(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the mesh's CA: %w", err)
	}
	certificate, err := ca.IssueClient(key, identity.AdminName, []string{identity.AdminOrganization}, identity.DefaultAdminLifetime)
	if err != nil {
		return nil, fmt.Errorf("sign the administrator's certificate: %w", err)
	}
	return &admin.Credentials{
		Server: "https://" + a.config.MeshAddress(), CA: string(bundle), Certificate: string(certificate),
		Expires: time.Now().Add(identity.DefaultAdminLifetime),
	}, nil
}

// Leave implements meshapi.Mesh. It refuses while guests run here: they would
// be nobody's. It may be repeated after a failure.
func (a *Agent) Leave(ctx context.Context) error {
	if err := a.host.retire(ctx); err != nil {
		return err
	}
	if err := identity.NewHosts(a.store).Remove(ctx, a.config.Name); err != nil && !errors.Is(err, identity.ErrNoHost) {
		return fmt.Errorf("remove the record of this host: %w", err)
	}
	if err := a.store.Leave(ctx); err != nil {
		return fmt.Errorf("leave the replicated store: %w", err)
	}
	if err := a.gossip.Leave(ctx); err != nil {
		a.log.Warn("not every host heard the goodbye", "err", err)
	}
	a.leftOnce.Do(func() { close(a.left) })
	return nil
}

// RemoveHost implements meshapi.Mesh. It may be repeated after a failure.
func (a *Agent) RemoveHost(ctx context.Context, name string) error {
	if member, ok := a.gossip.Member(name); ok && member.State.Live() {
		return fmt.Errorf("%w: %s is alive; run 'virtmesh agent leave' on it", admin.ErrInvalid, name)
	}
	return a.host.removal(name).run(ctx)
}

// forget removes what made this machine a host. Images and volumes stay.
func (a *Agent) forget() error {
	if err := identity.RemoveState(a.config.StateDir); err != nil {
		return err
	}
	if err := os.RemoveAll(a.config.raftDir()); err != nil {
		return fmt.Errorf("remove the replica: %w", err)
	}
	if err := os.Remove(a.configPath); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove the configuration: %w", err)
	}
	return nil
}
