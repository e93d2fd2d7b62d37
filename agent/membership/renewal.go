package membership

import (
	"context"
	"errors"
	"time"

	"virtmesh/agent/fault"
	"virtmesh/agent/identity"
	"virtmesh/agent/port/enrol"
)

// renewals provides the issuers that can sign this host's next certificate.
type renewals struct {
	config   Config
	version  string // of this program
	identity *identity.Identity
	peers    *Peers
}

// byOthers returns the issuer that asks the other hosts to sign.
func (r renewals) byOthers() identity.Issuer {
	return enrol.Renewal(enrol.RenewalConfig{Identity: r.identity, Version: r.version, Members: r.peers.MeshAddresses, Attempt: 5 * time.Second})
}

// byVoters returns the issuer that asks the voters to sign, each itself. Another host that is
// asked may have to ask them in turn.
func (r renewals) byVoters(voters identity.Authority) identity.Issuer {
	return identity.IssuerFunc(func(ctx context.Context, csr []byte) (identity.Issued, error) {
		proof, err := r.identity.Prove(csr)
		if err != nil {
			return identity.Issued{}, err
		}
		return voters.SignRenewal(ctx, proof)
	})
}

// byItself returns the issuer that signs with this host's copy of the CA key.
func (r renewals) byItself() identity.Issuer {
	return identity.SelfIssuer(r.identity, r.config.certificateNames(), time.Duration(r.config.CertificateLifetime))
}

// askWhetherExpelled returns an error if the other hosts say that this machine was
// removed.
func (r renewals) askWhetherExpelled(ctx context.Context) error {
	if err := r.askWhyRefused(ctx); errors.Is(err, fault.Expelled) {
		return err
	}
	return nil
}

// askWhyRefused returns an error if the other hosts say that this machine was removed, has no
// record, or does not have the key of the host that it says it is. Their mesh ports refuse such a
// machine without giving a reason, and its operator must learn the reason. A request for a
// certificate is the only request that they answer to any machine.
func (r renewals) askWhyRefused(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, JoinTimeout)
	defer cancel()
	csr, err := r.identity.NextCSR()
	if err != nil {
		return err
	}
	_, err = r.byOthers().IssueNode(ctx, csr)
	for _, refusal := range []fault.Code{fault.Expelled, fault.NoHost, fault.Forbidden} {
		if errors.Is(err, refusal) {
			return err
		}
	}
	return nil
}

// askTimeout bounds how long a start waits for the others to say whether this machine
// was removed.
const askTimeout = 3 * time.Second

// askBeforeGossip returns an error if the other hosts say that this machine was removed.
// Otherwise a removed machine that is switched on would appear among the live members,
// and vanish again, at each attempt to start its agent. It is no error if no host
// answers in time: they may be starting too.
func (m *Member) askBeforeGossip(ctx context.Context) error {
	if len(m.peers.Seeds()) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	return m.renewals.askWhetherExpelled(ctx)
}

// renewExpired renews a certificate that expired while the host was off, or that a clock
// that was far ahead has signed. The renewal must come first: without valid certificates
// there is no quorum, and without a quorum the replica cannot return the CA that signs. A
// host that holds the key of the CA signs its own certificate, so that a mesh that was off
// comes back. One that does not hold it goes on without a valid certificate as long as no
// other host answers, to look after its guests: the Renewer keeps asking.
func (m *Member) renewExpired(ctx context.Context) error {
	if !m.identity.MustRenew() {
		return nil
	}
	renewer, err := m.newRenewer(m.renewals.byOthers(), m.renewals.byItself())
	if err != nil {
		return err
	}
	defer renewer.Shutdown()
	err = renewer.Renew(ctx)
	if err == nil || errors.Is(err, fault.NoHost) || errors.Is(err, fault.Expelled) || len(m.identity.HeldCAs()) > 0 {
		return err
	}
	m.log.Warn("this host's certificate has ended, and no host that could sign the next one answers yet", "err", err)
	return ctx.Err()
}

// startRenewal starts the Renewer, which keeps this host's certificate valid. The other hosts
// come after the voters: they take a certificate that has ended, which the voters do not.
func (m *Member) startRenewal(context.Context) error {
	m.signer = m.newSigner().WithKeyring(m.identity.CAKeyOf, m.voters)
	renewer, err := m.newRenewer(m.signer.For(m.identity.Node()), m.renewals.byVoters(m.voters), m.renewals.byOthers(), m.renewals.byItself())
	if err != nil {
		return err
	}
	m.renewer = renewer
	m.onClose(func(context.Context) { renewer.Shutdown() })
	return nil
}

func (m *Member) newRenewer(issuers ...identity.Issuer) (*identity.Renewer, error) {
	cfg := identity.DefaultRenewerConfig()
	cfg.Identity, cfg.Issuers = m.identity, issuers
	cfg.Logger = m.log.With("part", "identity")
	if m.store != nil {
		cfg.Registerer, cfg.MakeRoom = m.options.Metrics, m.store.GiveRoom
	}
	return identity.NewRenewer(cfg)
}
