package api_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"virtmesh/agent/api"
	"virtmesh/agent/objects"
	"virtmesh/raftstore"
	"virtmesh/raftstore/raftstoretest"
)

// host is one API server on a loopback port, over a store in memory.
type host struct {
	store     *raftstore.Store
	url       string
	ca        *authority
	instances *fakeInstances
	stop      func() // ends the server, and waits for it
}

// authority signs certificates, as the mesh's does.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{cert: cert, key: key, pem: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}
}

// issue returns a certificate for a user in groups, good for clients and servers.
func (a *authority) issue(t testing.TB, user string, groups ...string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: user, Organization: groups},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func (a *authority) pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(a.cert)
	return p
}

// start serves the API until the test ends.
func start(t testing.TB, change ...func(*raftstore.Config)) *host {
	t.Helper()
	var options []raftstoretest.Option
	for _, c := range change {
		options = append(options, raftstoretest.WithConfig(c))
	}
	return serve(t, raftstoretest.New(t, options...), newAuthority(t))
}

// serve serves the API of one host of a mesh until the test ends.
func serve(t testing.TB, store *raftstore.Store, ca *authority, change ...func(*api.Config)) *host {
	t.Helper()
	h := &host{store: store, ca: ca, instances: newFakeInstances()}
	config := api.DefaultConfig()
	config.Store = objects.FromRaft(h.store, nil)
	config.Instances = h.instances
	config.ClientCAs = h.ca.pool
	config.Logger = slog.New(slog.DiscardHandler)
	config.RequestTimeout = 2 * time.Minute
	config.Patience = time.Minute // the machine may be busy
	metrics := prometheus.NewRegistry()
	gauge := prometheus.NewGauge(prometheus.GaugeOpts{Name: "virtmesh_test_metric"})
	gauge.Set(1)
	metrics.MustRegister(gauge)
	config.Metrics = metrics
	for _, c := range change {
		c(&config)
	}
	s, err := api.New(config)
	if err != nil {
		t.Fatal(err)
	}
	web := httptest.NewUnstartedServer(s.Handler())
	web.EnableHTTP2 = true
	web.TLS = &tls.Config{Certificates: []tls.Certificate{h.ca.issue(t, "server")}, ClientAuth: tls.RequestClientCert}
	web.StartTLS()
	h.url = web.URL
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	h.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	t.Cleanup(func() {
		h.stop()
		web.CloseClientConnections()
		web.Close()
	})
	h.waitReady(t)
	return h
}

func (h *host) waitReady(t testing.TB) {
	t.Helper()
	client := h.admin(t)
	deadline := time.Now().Add(time.Minute)
	for time.Now().Before(deadline) {
		_, err := client.CoreV1().Namespaces().Get(t.Context(), "default", getOptions)
		if err == nil {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Fatal("the API did not get ready")
}

// config returns how a user in groups reaches the API.
func (h *host) config(t testing.TB, user string, groups ...string) *rest.Config {
	t.Helper()
	cert := h.ca.issue(t, user, groups...)
	key, err := x509.MarshalECPrivateKey(cert.PrivateKey.(*ecdsa.PrivateKey))
	if err != nil {
		t.Fatal(err)
	}
	return &rest.Config{
		Host: h.url, QPS: -1,
		TLSClientConfig: rest.TLSClientConfig{
			CAData:   h.ca.pem,
			CertData: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Certificate[0]}),
			KeyData:  pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: key}),
		},
	}
}

func (h *host) adminConfig(t testing.TB) *rest.Config {
	t.Helper()
	return h.config(t, "virtmesh:admin", "system:masters")
}

func (h *host) admin(t testing.TB) kubernetes.Interface {
	t.Helper()
	return kubernetes.NewForConfigOrDie(h.adminConfig(t))
}

func (h *host) dynamic(t testing.TB) dynamic.Interface {
	t.Helper()
	return dynamic.NewForConfigOrDie(h.adminConfig(t))
}

// anonymous returns a client without a certificate.
func (h *host) anonymous() *http.Client {
	return &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: h.ca.pool()}}}
}
