package identity

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"virtmesh/agent/hostseal"
	"virtmesh/agent/sealed"
	"virtmesh/storage/durable"
)

// Identity is the current identity of this host: what Open read from the state
// directory, updated by Install. TLS configurations read it on every handshake, so a
// new certificate takes effect at once and no connection is dropped. All methods may be
// called at any time from any goroutine; only Install and SetSeeds block, on disk
// writes.
type Identity struct {
	dir  string
	info Info // without what changes: the seeds, and the generations of keys and CAs

	current atomic.Pointer[material]
	seeds   atomic.Pointer[[]Seed]

	mu     sync.Mutex // serialises the writers of the folder
	gossip [][]byte
	// gossipGeneration is the version of gossip.
	gossipGeneration uint64
	// trustGeneration is the version of the CAs that are trusted.
	trustGeneration uint64
	// caKeys is never changed, only replaced.
	caKeys caKeys
	// secretKeys is never changed, only replaced.
	secretKeys []sealed.PrivateKey
	// knownBundle is never changed, only replaced.
	knownBundle *BundleMade
	founder     bool
	// secretFiles hold the keyring on disk; sealed says that they are sealed as they should be.
	secretFiles *secretFiles
	sealed      bool

	// openingSeals is held while the TPM is asked to open files, as i.mu never is. openAgain is
	// when those that could not be opened are tried again.
	openingSeals sync.Mutex
	openAgain    time.Time
}

// material is this host's certificate and what it trusts. Each is of use without the other: the
// certificate brings the CA that signed it along, which the host may not trust any more.
type material struct {
	cert   tls.Certificate
	signer Pin // of the CA that signed cert
	bundle []byte
	roots  *x509.CertPool
}

// Open reads the identity of a state directory and checks that its parts belong
// together. An expired certificate is no error, because the agent renews it. Open
// removes the remains of interrupted writes, so only the agent that owns the directory
// may call it. It opens a keyring that a file seals, and not one that a TPM does; see OpenSealed.
func Open(dir string) (*Identity, error) {
	return OpenSealed(dir, hostseal.Open(dir, hostseal.Options{}))
}

// OpenSealed is Open with what seals the keyring of the host. Keys that the host cannot open
// count as not held; see Shut.
func OpenSealed(dir string, seals *hostseal.Seals) (*Identity, error) {
	id, err := readIdentity(dir, seals)
	if err == nil {
		err = removeLeftovers(dir)
	}
	if err != nil {
		return nil, err
	}
	return id, nil
}

// readIdentity is OpenSealed without the removal of anything.
func readIdentity(dir string, seals *hostseal.Seals) (*Identity, error) {
	files, err := openSecretFiles(filepath.Join(dir, folder), seals)
	if err != nil {
		return nil, err
	}
	st, err := readState(dir, files)
	if err != nil {
		return nil, err
	}
	if shut := files.faults(st.Info.Host); st.Founder && len(shut) > 0 {
		return nil, errors.Join(shut...) // nobody else has the keys yet
	}
	m, err := st.check()
	if err != nil {
		return nil, fmt.Errorf("read identity in %s: %w", dir, err)
	}
	caKeys, err := st.caKeys()
	if err != nil {
		return nil, fmt.Errorf("read identity in %s: %w", dir, err)
	}
	id := &Identity{
		dir: dir, info: st.Info, gossip: st.GossipKeys, gossipGeneration: st.Info.GossipGeneration, trustGeneration: st.Info.TrustGeneration,
		caKeys: caKeys, secretKeys: st.SecretKeys, knownBundle: st.Bundle, founder: st.Founder, secretFiles: files,
	}
	id.current.Store(m)
	id.seeds.Store(&st.Info.Seeds)
	return id, nil
}

// newMaterial checks that the chain is a certificate of node for key, signed by one of the
// bundle's CAs or by one that the chain holds itself. It does not look at the clock.
func newMaterial(node Node, key *ecdsa.PrivateKey, chain, bundle []byte) (*material, error) {
	certs, err := ParseCertificates(chain)
	if err != nil {
		return nil, fmt.Errorf("host certificate: %w", err)
	}
	roots, err := NewPool(bundle)
	if err != nil {
		return nil, err
	}
	leaf := certs[0]
	if !key.PublicKey.Equal(leaf.PublicKey) {
		return nil, errors.New("host certificate: its public key does not match the private key")
	}
	trusted, err := ParseCertificates(bundle)
	if err != nil {
		return nil, err
	}
	signer := signerOf(leaf, append(certs[1:len(certs):len(certs)], trusted...))
	if signer == nil {
		return nil, errors.New("host certificate: no CA at hand has signed it")
	}
	own := x509.NewCertPool()
	own.AddCert(signer)
	// Verify at a time within the certificate's validity, because the caller may be
	// about to renew an expired one.
	got, err := VerifyNode(certs, own, leaf.NotBefore, x509.ExtKeyUsageServerAuth)
	if err != nil {
		return nil, fmt.Errorf("host certificate: %w", err)
	}
	if got != node {
		return nil, fmt.Errorf("host certificate: it names host %s, want %s", got, node)
	}
	m := &material{bundle: bytes.Clone(bundle), roots: roots, signer: PinOf(signer)}
	m.cert.PrivateKey, m.cert.Leaf = key, leaf
	for _, c := range certs {
		m.cert.Certificate = append(m.cert.Certificate, c.Raw)
	}
	return m, nil
}

// signerOf returns the first of some CAs that has signed a certificate, or nil.
func signerOf(leaf *x509.Certificate, cas []*x509.Certificate) *x509.Certificate {
	for _, ca := range cas {
		if isCA(ca) && leaf.CheckSignatureFrom(ca) == nil {
			return ca
		}
	}
	return nil
}

// NewPool returns the pool of a PEM bundle of CA certificates.
func NewPool(bundle []byte) (*x509.CertPool, error) {
	certs, err := ParseCertificates(bundle)
	if err != nil {
		return nil, fmt.Errorf("CA bundle: %w", err)
	}
	pool := x509.NewCertPool()
	for _, c := range certs {
		if !isCA(c) {
			return nil, fmt.Errorf("CA bundle: %q is not a CA", c.Subject)
		}
		pool.AddCert(c)
	}
	return pool, nil
}

// VerifyNode verifies that a chain, leaf first, is a host certificate of the mesh with
// these roots, valid at the given time and for the given use. It returns the host.
func VerifyNode(chain []*x509.Certificate, roots *x509.CertPool, at time.Time, use x509.ExtKeyUsage) (Node, error) {
	if len(chain) == 0 {
		return Node{}, fmt.Errorf("%w: there is none", ErrNotNode)
	}
	between := x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	if _, err := chain[0].Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: between, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{use},
	}); err != nil {
		return Node{}, fmt.Errorf("verify host certificate: %w", err)
	}
	return NodeOf(chain[0])
}

// Dir returns the state directory.
func (i *Identity) Dir() string { return i.dir }

// Info returns what the host knows about itself and its mesh.
func (i *Identity) Info() Info {
	info := i.info
	info.SANs, info.Seeds = slices.Clone(info.SANs), slices.Clone(*i.seeds.Load())
	return info
}

// Host returns the name of this host.
func (i *Identity) Host() string { return i.info.Host }

// Node returns this host with its ID, as its certificates name it.
func (i *Identity) Node() Node { return i.info.node() }

// MeshID returns the random name of the mesh.
func (i *Identity) MeshID() string { return i.info.MeshID }

// Certificate returns the current certificate with its private key. The caller must
// not change it.
func (i *Identity) Certificate() *tls.Certificate { return &i.current.Load().cert }

// Leaf returns the current host certificate. The caller must not change it.
func (i *Identity) Leaf() *x509.Certificate { return i.current.Load().cert.Leaf }

// KeyPin returns the pin of this host's key.
func (i *Identity) KeyPin() Pin { return PinOf(i.Leaf()) }

func (i *Identity) key() *ecdsa.PrivateKey { return i.current.Load().key() }

// NextCSR returns the request (DER) for the next certificate of this host.
func (i *Identity) NextCSR() ([]byte, error) { return NewCSR(i.key(), i.Host()) }

// Roots returns the CAs that are trusted now. The caller must not change the pool.
func (i *Identity) Roots() *x509.CertPool { return i.current.Load().roots }

// CABundle returns the trusted CA certificates as PEM.
func (i *Identity) CABundle() []byte { return bytes.Clone(i.current.Load().bundle) }

// GetCertificate is for tls.Config: the certificate to serve with.
func (i *Identity) GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return i.Certificate(), nil
}

// GetClientCertificate is for tls.Config: the certificate to call with.
func (i *Identity) GetClientCertificate(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	return i.Certificate(), nil
}

// GossipKeys returns the keyring; the first key encrypts.
func (i *Identity) GossipKeys() [][]byte {
	i.mu.Lock()
	defer i.mu.Unlock()
	return cloneKeys(i.gossip)
}

// SetSeeds replaces the stored addresses of other members, on disk and in memory, if
// they have changed. A host that loses its copy of the replicated store can find the
// mesh only by these addresses; this is also true of the first host of the mesh.
func (i *Identity) SetSeeds(seeds []Seed) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if slices.Equal(seeds, *i.seeds.Load()) {
		return nil
	}
	info := i.infoNow()
	info.Seeds = slices.Clone(seeds)
	if err := i.writeInfo(info); err != nil {
		return fmt.Errorf("set seeds: %w", err)
	}
	i.seeds.Store(&info.Seeds)
	return nil
}

// infoNow returns what is to be in the file of the host's Info. The caller holds i.mu.
func (i *Identity) infoNow() Info {
	info := i.info
	info.Seeds, info.GossipGeneration, info.TrustGeneration = *i.seeds.Load(), i.gossipGeneration, i.trustGeneration
	return info
}

// writeInfo replaces the file of the host's Info. The caller holds i.mu.
func (i *Identity) writeInfo(info Info) error {
	data, err := encodeInfo(info)
	if err != nil {
		return err
	}
	return durable.WriteFile(i.path(fileInfo), data, 0o600)
}

func (m *material) key() *ecdsa.PrivateKey { return m.cert.PrivateKey.(*ecdsa.PrivateKey) }

func (m *material) chain() []byte {
	var certs []*x509.Certificate
	for _, raw := range m.cert.Certificate {
		if c, err := x509.ParseCertificate(raw); err == nil {
			certs = append(certs, c)
		}
	}
	return EncodeCertificates(certs...)
}

func (i *Identity) path(name string) string { return filepath.Join(i.dir, folder, name) }

// removeLeftovers deletes the temporary files of interrupted writes, because they hold
// private keys.
func removeLeftovers(dir string) error {
	for at, prefix := range map[string]string{dir: stagingPrefix, filepath.Join(dir, folder): "."} {
		entries, err := os.ReadDir(at)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("clean identity: %w", err)
		}
		for _, e := range entries {
			if !strings.HasPrefix(e.Name(), prefix) {
				continue
			}
			if err := os.RemoveAll(filepath.Join(at, e.Name())); err != nil {
				return fmt.Errorf("clean identity: %w", err)
			}
		}
	}
	return nil
}
