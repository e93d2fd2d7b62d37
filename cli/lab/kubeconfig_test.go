package lab

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// A lab that is older than its kubeconfigs are valid gets new ones: those work that are there
// and last, and no others.
func TestKubeconfigWorks(t *testing.T) {
	now := time.Now()
	for name, test := range map[string]struct {
		user  *clientcmdapi.AuthInfo
		works bool
	}{
		"none":                    {nil, false},
		"ended":                   {endsAt(t, now.Add(-time.Hour)), false},
		"ends too soon":           {endsAt(t, now.Add(kubeconfigRest/2)), false},
		"lasts":                   {endsAt(t, now.Add(2*kubeconfigRest)), true},
		"without any certificate": {&clientcmdapi.AuthInfo{Token: "token"}, true},
	} {
		path := filepath.Join(t.TempDir(), "kubeconfig")
		if test.user != nil {
			config := clientcmdapi.NewConfig()
			config.AuthInfos["lab"] = test.user
			if err := clientcmd.WriteToFile(*config, path); err != nil {
				t.Fatal(err)
			}
		}
		if works, err := kubeconfigWorks(path, now.Add(kubeconfigRest)); err != nil || works != test.works {
			t.Errorf("%s: %v, %v", name, works, err)
		}
	}
	path := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(path, []byte("users: nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := kubeconfigWorks(path, now); err == nil {
		t.Error("nonsense is a kubeconfig")
	}
}

// endsAt is a user whose certificate ends at a time.
func endsAt(t *testing.T, end time.Time) *clientcmdapi.AuthInfo {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: end.Add(-time.Hour), NotAfter: end}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return &clientcmdapi.AuthInfo{ClientCertificateData: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}
}
