package cli

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
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
		key, certificate := newCertificate(t, left)
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
		user.ClientCertificateData = certificate
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

// newCertificate returns a certificate that ends when so much time is left, PEM, and its key.
func newCertificate(t *testing.T, left time.Duration) (*ecdsa.PrivateKey, []byte) {
	t.Helper()
	return newCertificateOf(t, left, pkix.Name{})
}

// newCertificateOf is newCertificate for somebody.
func newCertificateOf(t *testing.T, left time.Duration, subject pkix.Name) (*ecdsa.PrivateKey, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: subject, NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: time.Now().Add(left)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// TestCertificateThatEndsAtAnotherTime: a host with an earlier version signs for a year whatever
// was asked for, and the last renewals are short.
func TestCertificateThatEndsAtAnotherTime(t *testing.T) {
	for name, c := range map[string]struct {
		left            time.Duration
		keyHash         string
		args            []string
		warned, earlier bool
	}{
		"as by default":       {8 * time.Hour, "0a", nil, false, false},
		"as asked":            {time.Hour, "0a", []string{"--ttl", "1h"}, false, false},
		"the last renewal":    {time.Hour, "0a", nil, true, false},
		"of a year":           {365 * 24 * time.Hour, "", nil, true, true},
		"of a year, asked 1h": {365 * 24 * time.Hour, "", []string{"--ttl", "1h"}, true, true},
	} {
		_, certificate := newCertificate(t, c.left)
		mesh := &fakeMesh{issues: &admin.Credentials{Server: "https://192.0.2.1:7443", CA: "the CA", Certificate: string(certificate), KeyHash: c.keyHash}}
		server := httptest.NewServer(admin.NewHandler(mesh, admin.AsRoot))
		t.Cleanup(server.Close)
		code, stdout, stderr := runWith(t, writeKubeconfig(t, server.URL), append([]string{"kubeconfig"}, c.args...)...)
		if code != 0 || !strings.Contains(stdout, "client-certificate-data") {
			t.Errorf("%s: %d %s", name, code, stderr)
		}
		if strings.Contains(stderr, "asked for were") != c.warned || strings.Contains(stderr, "runs an earlier version") != c.earlier {
			t.Errorf("%s: %q", name, stderr)
		}
	}
}

// TestCertificatesThatCannotBeRead: one spoilt record hides no other, and a revocation by name says
// that it may not have been all.
func TestCertificatesThatCannotBeRead(t *testing.T) {
	connection := serve(t, &fakeMesh{unreadable: true})
	for _, wide := range [][]string{nil, {"-o", "wide"}} {
		code, stdout, stderr := run(t, append(append(connection, "cert", "ls"), wide...)...)
		if code != 0 || !strings.Contains(lineWith(stdout, "0d0d0d0d"), "unreadable") || !strings.Contains(stderr, "cannot be read: 1") || !strings.Contains(stderr, "virtmesh cert revoke HASH") {
			t.Errorf("cert ls %s: %d\n%s%s", wide, code, stdout, stderr)
		}
	}
	code, stdout, stderr := run(t, append(connection, "cert", "revoke", "alice")...)
	if code != 1 || !strings.Contains(stdout, "of alice revoked") || !strings.Contains(stderr, "0d0d0d0d0d0d0d0d") || !strings.Contains(stderr, "virtmesh cert revoke HASH") {
		t.Errorf("cert revoke: %d\n%s%s", code, stdout, stderr)
	}
}
