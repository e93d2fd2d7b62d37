package cli

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/urfave/cli/v2"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"virtmesh/agent/identity"
	"virtmesh/agent/port/admin"
	"virtmesh/storage/durable"
)

func kubeconfigCommand() *cli.Command {
	return &cli.Command{
		Name: "kubeconfig", Usage: "make the kubeconfig of an administrator, or of a user of this mesh",
		Description: "The kubeconfig names the host that answers; any other host would do as well. Keep it secret: it contains a private key. " +
			"Root on a host can make one at any time, and an administrator one for a user ('virtmesh user'). With a kubeconfig that is still valid, anyone can make the next one for himself, for up to 30 days after the first was made.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Usage: "write it to `FILE`, which only its owner can read, instead of printing it; a file that is there is replaced"},
			&cli.StringFlag{Name: "user", Usage: "the user of the mesh whose it is, or with --admin the administrator; 'virtmesh cert' lists and revokes it by that name (default: " + identity.AdminName + ", or who asks)"},
			&cli.BoolFlag{Name: "admin", Usage: "make it an administrator's, who may do all, in the name --user; without --user it is one if root asks"},
			&cli.DurationFlag{Name: "ttl", Action: mustBePositive("ttl"), Usage: fmt.Sprintf("how long it is valid, at most %gh (default: %gh)", identity.MaxAdminLifetime.Hours(), identity.DefaultAdminLifetime.Hours())},
			&cli.StringFlag{Name: "name", Value: "virtmesh", Usage: "the name of the cluster and the context in it"},
			&cli.StringFlag{Name: "server", Usage: "the https URL to put in it (default: the answering host)"},
		},
		Action: kubeconfig,
	}
}

func kubeconfig(c *cli.Context) error {
	if err := checkKubeconfigOutput(c); err != nil {
		return err
	}
	conn, err := connect(c)
	if err != nil {
		return err
	}
	key, csr, err := newKeyAndRequest()
	if err != nil {
		return err
	}
	request := admin.CredentialsRequest{CSR: string(csr), User: c.String("user"), Administrator: c.Bool("admin"), TTL: c.Duration("ttl")}
	var issued admin.Credentials
	if err := conn.mesh(c.Context, http.MethodPost, admin.CredentialsPath, request, &issued); err != nil {
		return err
	}
	if err := refuseAdministrators(request, conn, issued); err != nil {
		return err
	}
	warnOfOtherEnd(c, issued)
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
	path := c.String("output")
	if path == "" {
		_, err = c.App.Writer.Write(data)
		return err
	}
	if err := durable.WriteFile(path, data, 0o600); err != nil {
		return fmt.Errorf("write the kubeconfig: %w", err)
	}
	of := "an administrator"
	if issued.OfUser {
		of = "the user " + issued.User
	}
	fmt.Fprintf(c.App.ErrWriter, "wrote %s, of %s, valid until %s\n", path, of, issued.Expires.Local().Format(time.DateTime))
	return nil
}

// refuseAdministrators returns an error if a certificate was asked for a user, and is an
// administrator's: a host of an earlier version makes no others. The private key ends with this
// process. An administrator may name himself.
func refuseAdministrators(asked admin.CredentialsRequest, conn *connection, issued admin.Credentials) error {
	if asked.User == "" || asked.User == identity.AdminName || asked.Administrator || issued.OfUser {
		return nil
	}
	if own := certificateIn(conn.rest.CertData); own != nil && own.Subject.CommonName == asked.User {
		return nil
	}
	cert := certificateIn([]byte(issued.Certificate))
	if cert != nil && !slices.Contains(cert.Subject.Organization, identity.AdminOrganization) {
		return nil
	}
	return fmt.Errorf("the host that answered makes certificates of administrators only, and the one for %s is thrown away; install this version on the host and raise the mesh's level ('virtmesh level'), or make an administrator's with --admin", asked.User)
}

// certificateIn returns the first certificate in PEM; nil if there is none.
func certificateIn(data []byte) *x509.Certificate {
	block, _ := pem.Decode(data)
	if block == nil {
		return nil
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil
	}
	return cert
}

// checkKubeconfigOutput finds out, before the mesh is asked for a certificate, whether the
// kubeconfig can be written so that only its owner can read it.
func checkKubeconfigOutput(c *cli.Context) error {
	if path := c.String("output"); path != "" {
		dir, err := os.Stat(filepath.Dir(path))
		if err == nil && !dir.IsDir() {
			err = fmt.Errorf("%s is no directory", filepath.Dir(path))
		}
		if have, statErr := os.Stat(path); err == nil && statErr == nil && !have.Mode().IsRegular() {
			err = fmt.Errorf("%s is no file", path)
		}
		if err != nil {
			return fmt.Errorf("--output: %w", err)
		}
		return nil
	}
	return refuseOpenFile(c.App.Writer, "the kubeconfig", "--output")
}

// refuseOpenFile returns an error if a secret would be printed to a file that others may read.
// flag is what writes it to a file of its owner's instead.
func refuseOpenFile(to io.Writer, secret, flag string) error {
	out, ok := to.(*os.File)
	if !ok {
		return nil
	}
	if info, err := out.Stat(); err == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("others may read the file that %s would be printed to (mode %04o); write it with %s FILE", secret, info.Mode().Perm(), flag)
	}
	return nil
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
