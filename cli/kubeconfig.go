package cli

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"net/http"

	"github.com/urfave/cli/v2"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"virtmesh/agent/port/admin"
)

func kubeconfigCommand() *cli.Command {
	return &cli.Command{
		Name: "kubeconfig", Usage: "print an administrator's kubeconfig for this mesh",
		Description: "The kubeconfig names the host that answers; any other host would do as well. Keep it secret: it contains a private key.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "name", Value: "virtmesh", Usage: "the name of the cluster and the context in it"},
			&cli.StringFlag{Name: "server", Usage: "the https URL to put in it (default: the answering host)"},
		},
		Action: kubeconfig,
	}
}

func kubeconfig(c *cli.Context) error {
	conn, err := connect(c)
	if err != nil {
		return err
	}
	key, csr, err := newKeyAndRequest()
	if err != nil {
		return err
	}
	var issued admin.Credentials
	if err := conn.mesh(c.Context, http.MethodPost, "/mesh/v1/credentials", admin.CredentialsRequest{CSR: string(csr)}, &issued); err != nil {
		return err
	}
	server := issued.Server
	if c.String("server") != "" {
		server = c.String("server")
	}
	name := c.String("name")
	config := clientcmdapi.NewConfig()
	config.Clusters[name] = &clientcmdapi.Cluster{Server: server, CertificateAuthorityData: []byte(issued.CA)}
	config.AuthInfos[name] = &clientcmdapi.AuthInfo{ClientCertificateData: []byte(issued.Certificate), ClientKeyData: key}
	config.Contexts[name] = &clientcmdapi.Context{Cluster: name, AuthInfo: name, Namespace: "default"}
	config.CurrentContext = name
	data, err := clientcmd.Write(*config)
	if err != nil {
		return fmt.Errorf("encode kubeconfig: %w", err)
	}
	_, err = c.App.Writer.Write(data)
	return err
}

// newKeyAndRequest makes a private key, which never leaves this process except
// in the kubeconfig, and a certificate request for it, both PEM.
func newKeyAndRequest() (keyPEM, csrPEM []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make a key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, fmt.Errorf("encode the key: %w", err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "virtmesh:admin"}}, key)
	if err != nil {
		return nil, nil, fmt.Errorf("make a certificate request: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: csr}), nil
}
