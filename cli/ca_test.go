package cli

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"virtmesh/agent/fault"
	"virtmesh/agent/port/admin"
)

// caOf is a CA that can be told from others.
func caOf(digit string) admin.CACertificate {
	return admin.CACertificate{Fingerprint: strings.Repeat(digit, 64), Subject: "virtmesh", Made: time.Now(), Expires: time.Now().Add(time.Hour)}
}

// The CA is replaced in the name of who asks, with the deadline that is asked for; a deadline
// that no mesh takes is refused before anything is asked.
func TestCARotate(t *testing.T) {
	mesh := wellMesh()
	mesh.ca = admin.CAStatus{Signing: caOf("a"), Stage: "Replaced", Have: []string{"host1"}, Off: []string{"host2"},
		Former: []admin.FormerCA{{CACertificate: caOf("b"), Until: time.Now().Add(time.Hour), Vouched: true, Certificates: []admin.Certificate{{User: "alice", KeyHash: strings.Repeat("0a", 32), Expires: time.Now().Add(8 * time.Hour)}}}}}
	connection := serve(t, mesh)
	for _, wrong := range []string{"-1h", "0", "721h"} {
		if code, _, stderr := run(t, append(connection, "ca", "rotate", "--deadline="+wrong)...); code != 1 || mesh.rotatedBy != "" || !strings.Contains(stderr, "--deadline must be from 1m0s to 720h") {
			t.Errorf("--deadline %s: exit code %d, by %q, %q", wrong, code, mesh.rotatedBy, stderr)
		}
	}
	code, stdout, stderr := run(t, append(connection, "ca", "rotate", "--deadline", "2h")...)
	if code != 0 || mesh.rotatedBy != "root" || mesh.caRotated != 2*time.Hour {
		t.Fatalf("exit code %d, by %q, deadline %s: %q", code, mesh.rotatedBy, mesh.caRotated, stderr)
	}
	for _, want := range []string{"aaaaaaaaaaaaaaaa", "was replaced", "1 as they should be; off, and follow when they come back: host2", "bbbbbbbbbbbbbbbb", "lets hosts in that were off, until", "kubeconfigs of its time work until then", "alice"} {
		if !strings.Contains(stdout, want) {
			t.Errorf("output lacks %q:\n%s", want, stdout)
		}
	}
	if run(t, append(connection, "ca", "rotate")...); mesh.caRotated != 7*24*time.Hour {
		t.Errorf("deadline %s", mesh.caRotated)
	}
	mesh.rotateErr = fault.New(fault.Conflict, "no recovery bundle has the key").WithRemedy("make one: 'virtmesh keyring bundle --output FILE'")
	if code, _, stderr := run(t, append(connection, "ca", "rotate")...); code != 5 || !strings.Contains(stderr, "no recovery bundle has the key; make one") {
		t.Errorf("refused: exit code %d, %q", code, stderr)
	}
}

// Who asks learns how far a replacement is, for whom it waits, and what is to be done.
func TestCAShow(t *testing.T) {
	next := caOf("c")
	for name, c := range map[string]struct {
		ca    admin.CAStatus
		wants []string
	}{
		"a young mesh": {admin.CAStatus{Signing: caOf("a"), KeyInState: true, Have: []string{"host1"}}, []string{"every host and every backup holds its key", "virtmesh keyring bundle"}},
		"never":        {admin.CAStatus{Signing: caOf("a"), Have: []string{"host1", "host2"}}, []string{"the one that the mesh was made with", "2 as they should be"}},
		"the hosts take it": {admin.CAStatus{Signing: caOf("a"), Next: &next, Stage: "Given", Operation: "rotate-ca-1", Waiting: []string{"host2"}},
			[]string{"Next:     cccccccccccccccc", "the hosts take the next CA", "'virtmesh operation watch rotate-ca-1'", "waiting for host2"}},
		"it signs": {admin.CAStatus{Signing: caOf("a"), Stage: "Signing"}, []string{"the new CA signs, and the hosts get certificates of it"}},
		"kubeconfigs do not know the new one": {admin.CAStatus{Signing: caOf("a"), Stage: "Replaced", Former: []admin.FormerCA{{CACertificate: caOf("b"), Until: time.Now().Add(time.Hour)}}},
			[]string{"kubeconfigs of its time must be made anew now"}},
		"the deadline is over": {admin.CAStatus{Signing: caOf("a"), Stage: "Replaced", Former: []admin.FormerCA{{CACertificate: caOf("b"), Until: time.Now().Add(-time.Hour)}}},
			[]string{"lets nobody in since", "joins anew"}},
	} {
		t.Run(name, func(t *testing.T) {
			mesh := wellMesh()
			mesh.ca = c.ca
			connection := serve(t, mesh)
			code, stdout, stderr := run(t, append(connection, "ca", "show")...)
			for _, want := range c.wants {
				if code != 0 || !strings.Contains(stdout, want) {
					t.Errorf("exit code %d, %q lacks %q:\n%s", code, stderr, want, stdout)
				}
			}
			code, stdout, _ = run(t, append(connection, "ca", "status", "-o", "json")...)
			var read admin.CAStatus
			if err := json.Unmarshal([]byte(stdout), &read); err != nil || code != 0 || read.Signing.Fingerprint != c.ca.Signing.Fingerprint || mesh.rotatedBy != "" {
				t.Errorf("JSON: exit code %d, %v, by %q: %s", code, err, mesh.rotatedBy, stdout)
			}
		})
	}
}

// A removal says whether it replaced the CA, whose key the host may have had, and else why not.
func TestNodeRemoveTellsOfTheCA(t *testing.T) {
	for name, c := range map[string]struct {
		removed        admin.Removed
		stdout, stderr string
		not            string
	}{
		"replaced": {admin.Removed{KeysReplaced: true, KeepsKeys: true, CAReplaced: true}, "the mesh's CA was replaced", "may still have the key for Secrets: run 'virtmesh secrets rotate-key'", "ca rotate"},
		"kept":     {admin.Removed{KeysReplaced: true, KeepsKeys: true, CAKept: "there is no recovery bundle"}, "", "was not replaced: there is no recovery bundle; then run 'virtmesh ca rotate'", "opens every backup"},
		"bundle":   {admin.Removed{KeysReplaced: true, MadeBundle: true}, "", "bundle was made on host2, which may have a copy: make another one with 'virtmesh keyring bundle', and then", "may still have"},
		"no voter": {admin.Removed{KeysReplaced: true}, "host host2 removed", "", "CA"},
	} {
		t.Run(name, func(t *testing.T) {
			mesh := wellMesh()
			mesh.removal = &c.removed
			code, stdout, stderr := run(t, append(serve(t, mesh), "node", "remove", "host2")...)
			if code != 0 || !strings.Contains(stdout, c.stdout) || !strings.Contains(stderr, c.stderr) || strings.Contains(stderr, c.not) || strings.Contains(stderr, "recovery bundle was made") != c.removed.MadeBundle {
				t.Errorf("exit code %d, %q, %q", code, stdout, stderr)
			}
		})
	}
}

// Who has a kubeconfig of a CA that was replaced is told so, and what helps.
func TestAKubeconfigOfAnotherCA(t *testing.T) {
	server := httptest.NewTLSServer(admin.NewHandler(wellMesh(), admin.AsRoot))
	t.Cleanup(server.Close)
	config := clientcmdapi.NewConfig()
	config.Clusters["m"] = &clientcmdapi.Cluster{Server: server.URL, CertificateAuthorityData: anotherCA(t)}
	config.AuthInfos["m"] = &clientcmdapi.AuthInfo{}
	config.Contexts["m"] = &clientcmdapi.Context{Cluster: "m", AuthInfo: "m"}
	config.CurrentContext = "m"
	path := filepath.Join(t.TempDir(), "kubeconfig")
	if err := clientcmd.WriteToFile(*config, path); err != nil {
		t.Fatal(err)
	}
	code, _, stderr := run(t, "--kubeconfig", path, "ca", "show")
	if code == 0 || !strings.Contains(stderr, "the mesh's CA was replaced since the kubeconfig was made") || !strings.Contains(stderr, "virtmesh kubeconfig --output FILE") {
		t.Errorf("exit code %d, %q", code, stderr)
	}
	if strings.Count(stderr, "\n") != 1 {
		t.Errorf("more than one line: %q", stderr)
	}
}

// anotherCA returns the certificate of a CA that has signed nothing, PEM.
func anotherCA(t *testing.T) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}
