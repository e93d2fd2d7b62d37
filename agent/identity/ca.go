package identity

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"
)

const (
	// CALifetime is how long a mesh CA is valid.
	CALifetime = 10 * 365 * 24 * time.Hour
	// DefaultNodeLifetime is how long a host certificate is valid.
	DefaultNodeLifetime = 24 * time.Hour
	// maxBackdate bounds how long before its signing a certificate becomes valid: for as long
	// as it is valid afterwards, but not longer. The clocks of two hosts may differ by hours,
	// and each must take the certificates of the other for valid.
	maxBackdate = 24 * time.Hour
)

// CA signs the certificates of one mesh. It is safe for concurrent use.
type CA struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	// successors are certificates of this CA, and of those before it, as the ones before them
	// sign them. Servers show them.
	successors []*x509.Certificate
}

// NewCA makes the CA of a new mesh.
func NewCA(meshID string) (*CA, error) { return newCA(meshID) }

// newCA makes a CA whose certificate names some organizational units.
func newCA(meshID string, units ...string) (*CA, error) {
	key, err := NewKey()
	if err != nil {
		return nil, fmt.Errorf("mesh CA: %w", err)
	}
	now := time.Now()
	tmpl := &x509.Certificate{
		Subject:               pkix.Name{CommonName: "virtmesh CA " + meshID, OrganizationalUnit: units},
		NotBefore:             now.Add(-maxBackdate),
		NotAfter:              now.Add(CALifetime),
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLen:            maxFormerCAs, // those that come after it, as long as it is a former one
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	cert, err := signCertificate(tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		return nil, fmt.Errorf("mesh CA: %w", err)
	}
	return &CA{cert: cert, key: key}, nil
}

// ParseCA reads a CA from its PEM certificate and PEM key.
func ParseCA(certPEM, keyPEM []byte) (*CA, error) {
	certs, err := ParseCertificates(certPEM)
	if err != nil {
		return nil, fmt.Errorf("mesh CA: %w", err)
	}
	key, err := ParseKey(keyPEM)
	if err != nil {
		return nil, fmt.Errorf("mesh CA: %w", err)
	}
	if !certs[0].IsCA || !key.PublicKey.Equal(certs[0].PublicKey) {
		return nil, errors.New("mesh CA: key and certificate do not belong together")
	}
	return &CA{cert: certs[0], key: key}, nil
}

// Certificate returns the CA certificate; the caller must not change it.
func (c *CA) Certificate() *x509.Certificate { return c.cert }

// CertificatePEM returns the CA certificate as PEM.
func (c *CA) CertificatePEM() []byte { return EncodeCertificates(c.cert) }

// KeyPEM returns the private key of the CA as PEM.
func (c *CA) KeyPEM() ([]byte, error) { return EncodeKey(c.key) }

// Pin returns the pin that join tokens carry.
func (c *CA) Pin() Pin { return PinOf(c.cert) }

// IssueNode signs a certificate for a host, usable as server and as client, and returns
// the chain as PEM: the certificate, then the CA, so that a joining host can compare
// the CA with its pin, then what leads to it from former CAs. sans are additional names and addresses.
func (c *CA) IssueNode(pub *ecdsa.PublicKey, node Node, sans []string, lifetime time.Duration) ([]byte, error) {
	if err := node.Validate(); err != nil {
		return nil, err
	}
	if err := c.checkClock(); err != nil {
		return nil, err
	}
	if len(sans) > maxSANs {
		return nil, fmt.Errorf("host %s asks for %d names, at most %d are allowed", node.Name, len(sans), maxSANs)
	}
	tmpl := c.leafTemplate(NodeCommonName(node.Name), []string{NodeOrganization}, lifetime)
	tmpl.Subject.SerialNumber = node.ID
	tmpl.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	tmpl.DNSNames = []string{node.Name, "localhost", ServerName}
	tmpl.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1).To4(), net.IPv6loopback}
	for _, san := range sans {
		if err := ValidateSAN(san); err != nil {
			return nil, err
		}
		if ip := net.ParseIP(san); ip == nil {
			if !slices.Contains(tmpl.DNSNames, san) {
				tmpl.DNSNames = append(tmpl.DNSNames, san)
			}
		} else if !slices.ContainsFunc(tmpl.IPAddresses, ip.Equal) {
			tmpl.IPAddresses = append(tmpl.IPAddresses, ip)
		}
	}
	cert, err := signCertificate(tmpl, c.cert, pub, c.key)
	if err != nil {
		return nil, fmt.Errorf("certificate of host %s: %w", node.Name, err)
	}
	return EncodeCertificates(append([]*x509.Certificate{cert, c.cert}, c.successors...)...), nil
}

// IssueClient signs a client certificate for a user of the API and returns it as PEM.
// It refuses subjects that name a host; only IssueNode makes those. Signer stores the
// record without which hosts do not take it.
func (c *CA) IssueClient(pub *ecdsa.PublicKey, user string, groups []string, lifetime time.Duration) ([]byte, error) {
	if user == "" {
		return nil, errors.New("client certificate: user name is empty")
	}
	if strings.HasPrefix(user, NodePrefix) || slices.Contains(groups, NodeOrganization) {
		return nil, fmt.Errorf("client certificate: user %q, groups %q would name a host", user, groups)
	}
	if err := c.checkClock(); err != nil {
		return nil, err
	}
	tmpl := c.leafTemplate(user, groups, lifetime)
	tmpl.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	cert, err := signCertificate(tmpl, c.cert, pub, c.key)
	if err != nil {
		return nil, fmt.Errorf("client certificate of %s: %w", user, err)
	}
	return EncodeCertificates(cert), nil
}

// checkClock refuses to sign by a clock that cannot be right, such as one that begins in 1970
// until a time server answers. The certificate would end before it begins, and the host may
// have a good one.
func (c *CA) checkClock() error {
	if now := time.Now(); now.Before(c.cert.NotBefore) || now.After(c.cert.NotAfter) {
		return fmt.Errorf("the clock of this host (%s) is wrong: the mesh's CA is valid from %s to %s",
			now.UTC().Format(time.RFC3339), c.cert.NotBefore.Format(time.RFC3339), c.cert.NotAfter.Format(time.RFC3339))
	}
	return nil
}

// leafTemplate returns the common template of the certificates that the CA signs. None
// of them is valid before the CA is, or for longer.
func (c *CA) leafTemplate(cn string, org []string, lifetime time.Duration) *x509.Certificate {
	now := time.Now()
	end := now.Add(lifetime)
	if end.After(c.cert.NotAfter) {
		end = c.cert.NotAfter
	}
	begin := now.Add(-min(max(lifetime, time.Second), maxBackdate))
	if begin.Before(c.cert.NotBefore) {
		begin = c.cert.NotBefore
	}
	return &x509.Certificate{
		Subject:               pkix.Name{CommonName: cn, Organization: org},
		NotBefore:             begin,
		NotAfter:              end,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		BasicConstraintsValid: true,
	}
}

func signCertificate(tmpl, parent *x509.Certificate, pub *ecdsa.PublicKey, key *ecdsa.PrivateKey) (*x509.Certificate, error) {
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, pub, key)
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	return cert, nil
}
