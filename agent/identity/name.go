package identity

import (
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"virtmesh/agent/hostname"
)

// Subjects of the certificates that the mesh CA signs.
const (
	// NodeOrganization is the organization of every host certificate.
	NodeOrganization = "system:nodes"
	// NodePrefix, followed by the host name, is the common name of a host certificate.
	NodePrefix = "system:node:"
	// AdminName is the common name of the administrator's client certificate.
	AdminName = "virtmesh:admin"
	// AdminOrganization is the group that may do everything.
	AdminOrganization = "system:masters"
	// ServerName is a DNS name that every host's certificate carries, so that an API
	// client can verify any host without knowing its name.
	ServerName = hostname.Server
)

// hostIDLen is how many random bytes a host ID has.
const hostIDLen = 16

// maxSANs bounds how many extra names and addresses one host may request.
const maxSANs = 32

// ErrNotNode is returned for a certificate that does not name a host of the mesh.
var ErrNotNode = errors.New("certificate does not name a mesh host")

// ValidateSAN returns an error if san cannot be in a host certificate, because it is
// neither an address nor a DNS name.
func ValidateSAN(san string) error {
	if a, err := netip.ParseAddr(san); err == nil {
		if a.Zone() != "" || a.IsUnspecified() || a.IsMulticast() {
			return fmt.Errorf("address %q cannot be in a certificate", san)
		}
		return nil
	}
	if len(san) > 253 || !hostname.IsDNSName(san) {
		return fmt.Errorf("%q is neither an address nor a DNS name", hostname.Clip(san))
	}
	return nil
}

// NodeCommonName returns the common name of the certificate of host.
func NodeCommonName(host string) string { return NodePrefix + host }

// Node is the host that a certificate names. Another machine can take the name once its
// host is gone; the ID belongs to one membership and is never used again.
type Node struct {
	// Name is the host name.
	Name string
	// ID is the host ID.
	ID string
}

// String returns the name and the ID.
func (n Node) String() string { return n.Name + " (host ID " + n.ID + ")" }

// Validate says what is missing or malformed.
func (n Node) Validate() error {
	if err := hostname.Validate(n.Name); err != nil {
		return err
	}
	if raw, err := hex.DecodeString(n.ID); err != nil || len(raw) != hostIDLen || strings.ToLower(n.ID) != n.ID {
		return fmt.Errorf("host ID %q: want %d bytes in lower-case hexadecimal", hostname.Clip(n.ID), hostIDLen)
	}
	return nil
}

// NewNode returns a Node with this name and a new random ID, for a new membership.
func NewNode(name string) Node {
	var id [hostIDLen]byte
	rand.Read(id[:])
	return Node{Name: name, ID: hex.EncodeToString(id[:])}
}

// NodeOf returns the host that cert names, or ErrNotNode. It only reads the subject:
// the caller must have verified the chain.
func NodeOf(cert *x509.Certificate) (Node, error) {
	name, found := strings.CutPrefix(cert.Subject.CommonName, NodePrefix)
	if !found || !slices.Contains(cert.Subject.Organization, NodeOrganization) {
		return Node{}, fmt.Errorf("%w: subject %q", ErrNotNode, cert.Subject)
	}
	node := Node{Name: name, ID: cert.Subject.SerialNumber}
	if err := node.Validate(); err != nil {
		return Node{}, fmt.Errorf("%w: %w", ErrNotNode, err)
	}
	return node, nil
}

// ClaimsNode reports whether cert has anything that could make it pass as a host
// certificate, well formed or not. Callers must check such a certificate as one of a
// host.
func ClaimsNode(cert *x509.Certificate) bool {
	return strings.HasPrefix(cert.Subject.CommonName, NodePrefix) ||
		slices.Contains(cert.Subject.Organization, NodeOrganization)
}
