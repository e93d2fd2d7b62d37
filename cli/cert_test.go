package cli

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/tools/clientcmd"

	"virtmesh/agent/port/admin"
)

// TestKubeconfigWithAnEndedCertificate: the certificate of a kubeconfig ends within hours, and
// the hosts' refusal does not say what to do.
func TestKubeconfigWithAnEndedCertificate(t *testing.T) {
	server := httptest.NewTLSServer(admin.NewHandler(&fakeMesh{}, admin.AsRoot))
	t.Cleanup(server.Close)
	authority := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	plain := writeKubeconfig(t, server.URL)
	for left, warned := range map[time.Duration]bool{time.Hour: false, -time.Hour: true} {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: time.Now().Add(left)}
		der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
		if err != nil {
			t.Fatal(err)
		}
		config, err := clientcmd.LoadFromFile(plain)
		if err != nil {
			t.Fatal(err)
		}
		encoded, err := x509.MarshalECPrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		context := config.Contexts[config.CurrentContext]
		config.Clusters[context.Cluster].CertificateAuthorityData = authority
		user := config.AuthInfos[context.AuthInfo]
		user.ClientCertificateData = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
		user.ClientKeyData = pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: encoded})
		path := filepath.Join(t.TempDir(), "kubeconfig")
		if err := clientcmd.WriteToFile(*config, path); err != nil {
			t.Fatal(err)
		}
		code, _, stderr := run(t, "--kubeconfig", path, "cert", "ls")
		if code != 0 || strings.Contains(stderr, "virtmesh kubeconfig --output FILE") != warned {
			t.Errorf("with %s left: %d %s", left, code, stderr)
		}
	}
}
