package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	_ "net/http/pprof"

	kubevirtv1 "kubevirt.io/api/core/v1"
	"virtmesh/agent/api"
	"virtmesh/agent/hostrpc"
	"virtmesh/raftstore"
	"virtmesh/raftstore/raftstoretest"
)

type none struct{ hostrpc.Instances }

func (none) Stream(context.Context, string, string, hostrpc.StreamKind) (io.ReadWriteCloser, error) {
	return nil, hostrpc.ErrNotFound
}

var _ = kubevirtv1.Running

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func rss(what string) {
	runtime.GC()
	debug.FreeOSMemory()
	b, _ := os.ReadFile("/proc/self/status")
	for _, l := range strings.Split(string(b), "\n") {
		if strings.HasPrefix(l, "VmRSS") || strings.HasPrefix(l, "RssAnon") {
			fmt.Println(what, strings.Join(strings.Fields(l), " "))
		}
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	fmt.Println(what, "heap inuse MB", m.HeapInuse>>20, "alloc", m.HeapAlloc>>20)
}

func main() {
	rss("start")
	cfg := raftstoretest.Config(raftstoretest.NewNetwork(), "host1")
	cfg.Bootstrap = true
	st := must(raftstore.Open(context.Background(), cfg))
	rss("store")
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, IsCA: true, BasicConstraintsValid: true, NotAfter: time.Now().Add(24 * time.Hour), KeyUsage: x509.KeyUsageCertSign}
	der := must(x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key))
	ca := must(x509.ParseCertificate(der))
	pool := x509.NewCertPool()
	pool.AddCert(ca)
	c := api.DefaultConfig()
	c.Store, c.Instances, c.ClientCAs = st, none{}, func() *x509.CertPool { return pool }
	c.Logger = slog.Default()
	t0 := time.Now()
	s := must(api.New(c))
	fmt.Println("new", time.Since(t0))
	rss("api")
	go s.Run(context.Background())
	issue := func(cn, o string) (tls.Certificate, []byte, []byte) {
		k := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
		t := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: cn, Organization: []string{o}}, NotAfter: time.Now().Add(24 * time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}}
		d := must(x509.CreateCertificate(rand.Reader, t, ca, k.Public(), key))
		kp := must(x509.MarshalECPrivateKey(k))
		return tls.Certificate{Certificate: [][]byte{d}, PrivateKey: k}, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: d}), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: kp})
	}
	cert, _, _ := issue("server", "")
	_, cp, kp := issue("virtmesh:admin", "system:masters")
	dir := os.Args[1]
	os.WriteFile(dir+"/ca.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600)
	os.WriteFile(dir+"/c.pem", cp, 0o600)
	os.WriteFile(dir+"/k.pem", kp, 0o600)
	addr := os.Args[2]
	os.WriteFile(dir+"/kubeconfig", []byte(fmt.Sprintf("apiVersion: v1\nkind: Config\nclusters: [{name: m, cluster: {server: 'https://%s', certificate-authority: %s/ca.pem}}]\nusers: [{name: a, user: {client-certificate: %s/c.pem, client-key: %s/k.pem}}]\ncontexts: [{name: c, context: {cluster: m, user: a}}]\ncurrent-context: c\n", addr, dir, dir, dir)), 0o600)
	web := &http.Server{Addr: addr, Handler: s.Handler(), TLSConfig: &tls.Config{Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequestClientCert}}
	go func() {
		for range time.Tick(15 * time.Second) {
			rss("now")
		}
	}()
	go http.ListenAndServe("127.0.0.1:16060", nil)
	fmt.Println(web.ListenAndServeTLS("", ""))
}
