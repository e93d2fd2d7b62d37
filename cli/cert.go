package cli

import (
	"cmp"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	"k8s.io/client-go/rest"

	"virtmesh/agent/identity"
	"virtmesh/agent/port/admin"
)

func certCommand() *cli.Command {
	return &cli.Command{
		Name: "cert", Usage: "list and revoke the certificates of people: administrators and users",
		Description: "'virtmesh kubeconfig' makes them. A certificate is known by the hash of its key: SHA-256 of the public key, in hexadecimal.",
		Subcommands: []*cli.Command{
			{Name: "ls", Usage: "list certificates, also those that have ended within the last weeks", Flags: []cli.Flag{outputFlag()}, Action: certList},
			{Name: "revoke", Usage: "make certificates useless at once, on all hosts", ArgsUsage: "USER|HASH...", Action: certRevoke, BashComplete: offer(certificateNames),
				Description: "A USER stands for all certificates of that name; of a HASH, the first 8 digits are enough. With a certificate, what it was renewed from and what was renewed from that are revoked too. Open connections are cut off.",
				Flags: []cli.Flag{yesFlag(),
					&cli.BoolFlag{Name: "unlisted", Usage: "revoke all certificates that are not in the list, which earlier versions have signed for a year; needs --yes"}}},
		},
	}
}

const certificatesPath = "/mesh/v1/certificates"

func certList(c *cli.Context) error {
	conn, err := connect(c)
	if err != nil {
		return err
	}
	var list admin.Certificates
	if err := conn.mesh(c.Context, http.MethodGet, certificatesPath, nil, &list); err != nil {
		return err
	}
	if printed, err := printValue(c, list); printed {
		return err
	}
	wide := c.String("output") == "wide"
	rows := make([][]string, 0, len(list.Certificates))
	unreadable := 0
	for _, cert := range list.Certificates {
		rows = append(rows, certificateRow(cert, wide))
		if cert.Unreadable != "" {
			unreadable++
		}
	}
	header := []string{"USER", "STATE", "EXPIRES", "HASH", "KIND"}
	if wide {
		header = append(header, "ISSUED", "HOST", "RENEWED FROM", "ISSUED BY", "REVOKED BY")
	}
	if err := printColumns(c.App.Writer, header, rows); err != nil {
		return err
	}
	if unreadable > 0 {
		fmt.Fprintf(c.App.ErrWriter, "Records that cannot be read: %d. Hosts of this version refuse these certificates; nobody knows whose they are. 'virtmesh cert revoke HASH' ends one for good.\n", unreadable)
	}
	if list.UnlistedAccepted {
		fmt.Fprintln(c.App.ErrWriter, "Certificates that are not in this list are valid too: earlier versions signed them for a year. 'virtmesh cert revoke --unlisted --yes' ends them all.")
	}
	return nil
}

// shortHash is how many digits of a hash a table shows.
const shortHash = 16

func certificateRow(cert admin.Certificate, wide bool) []string {
	state := "valid"
	switch {
	case cert.Revoked != nil:
		state = "revoked"
	case time.Now().After(cert.Expires):
		state = "expired"
	}
	hash, from, kind := cert.KeyHash, cert.RenewedFrom, "administrator"
	if cert.Unreadable != "" {
		row := make([]string, 10)
		row[1], row[3] = "unreadable", hash
		if !wide {
			row = row[:5]
			row[3] = hash[:min(len(hash), shortHash)]
		}
		return row
	}
	if cert.OfUser {
		kind = "user"
	}
	if !wide {
		return []string{cert.User, state, cert.Expires.Local().Format(time.DateTime), hash[:min(len(hash), shortHash)], kind}
	}
	return []string{cert.User, state, cert.Expires.Local().Format(time.DateTime), hash, kind,
		cert.Issued.Local().Format(time.DateTime), cert.Host, from[:min(len(from), shortHash)], cert.IssuedBy, cert.RevokedBy}
}

func certRevoke(c *cli.Context) error {
	unlisted := c.Bool("unlisted")
	switch {
	case !unlisted && !c.Args().Present():
		return errors.New("name a user, or the hash of a key; 'virtmesh cert ls' lists them")
	case unlisted && c.Args().Present():
		return errors.New("--unlisted takes no names: it ends all certificates that are not in the list")
	case unlisted && !c.Bool("yes"):
		return errors.New("kubeconfigs that earlier versions made would stop working at once, for good; repeat with --yes")
	}
	conn, err := connect(c)
	if err != nil {
		return err
	}
	revoke := func(request admin.RevocationRequest) (revoked []admin.Certificate, err error) {
		return revoked, conn.mesh(c.Context, http.MethodPost, certificatesPath+"/revocations", request, &revoked)
	}
	if unlisted {
		if _, err := revoke(admin.RevocationRequest{Unlisted: true}); err != nil {
			return err
		}
		_, err := fmt.Fprintln(c.App.Writer, "only certificates in the list are valid from now on")
		return err
	}
	for _, which := range c.Args().Slice() {
		revoked, err := revoke(admin.RevocationRequest{Certificate: which})
		if err != nil {
			return err
		}
		tellRevoked(c.App.Writer, which, revoked)
	}
	return checkUnreadable(c, conn)
}

// tellRevoked says which certificates were revoked.
func tellRevoked(out io.Writer, which string, revoked []admin.Certificate) {
	for _, cert := range revoked {
		switch {
		case cert.Unreadable != "":
			fmt.Fprintf(out, "certificate %s revoked; its record could not be read, and is replaced\n", cert.KeyHash[:min(len(cert.KeyHash), shortHash)])
		case cert.Unlisted:
			fmt.Fprintf(out, "no certificate with the key %s is listed; it is refused from now on\n", cert.KeyHash)
		default:
			fmt.Fprintf(out, "certificate %s of %s revoked\n", cert.KeyHash[:min(len(cert.KeyHash), shortHash)], cert.User)
		}
	}
	if len(revoked) == 0 {
		fmt.Fprintf(out, "%s: revoked already\n", which)
	}
}

// checkUnreadable returns an error if there are certificates whose record cannot be read: they may be
// of a person whose certificates were to end, and another version of the program may read them.
func checkUnreadable(c *cli.Context, conn *connection) error {
	var list admin.Certificates
	if err := conn.mesh(c.Context, http.MethodGet, certificatesPath, nil, &list); err != nil {
		return fmt.Errorf("revoked as said; whether there are certificates whose record cannot be read is not known: %w", err)
	}
	var hashes []string
	for _, cert := range list.Certificates {
		if cert.Unreadable != "" {
			hashes = append(hashes, cert.KeyHash[:min(len(cert.KeyHash), shortHash)])
		}
	}
	if len(hashes) == 0 {
		return nil
	}
	return fmt.Errorf("revoked as said; whose the certificates %s are is not known, since their records cannot be read: if hosts of another version can, they may go on to take them; 'virtmesh cert revoke HASH' ends one", strings.Join(hashes, ", "))
}

// warnOfEndedCertificate says that the certificate of a kubeconfig has ended, by this machine's
// clock: hosts refuse it in a handshake, which has no words for what to do.
func warnOfEndedCertificate(c *cli.Context, config *rest.Config) {
	block, _ := pem.Decode(config.CertData)
	if block == nil {
		return
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err == nil && time.Now().After(cert.NotAfter) {
		fmt.Fprintf(c.App.ErrWriter, "The certificate in the kubeconfig, of %s, ended at %s. Root on any host makes a new one: virtmesh kubeconfig --output FILE, with --user NAME for a user\n",
			cert.Subject.CommonName, cert.NotAfter.Local().Format(time.DateTime))
	}
}

// endTolerance is by how much a certificate may end at another time than was asked for before
// that is worth a word: the clocks of this machine and of the hosts differ.
const endTolerance = 10 * time.Minute

// warnOfOtherEnd says that a new certificate does not end when it was asked to: a host with an
// earlier version signs for a year, whatever is asked for, and renewals have an end.
func warnOfOtherEnd(c *cli.Context, issued admin.Credentials) {
	asked := cmp.Or(c.Duration("ttl"), identity.DefaultAdminLifetime)
	block, _ := pem.Decode([]byte(issued.Certificate))
	if block == nil {
		return
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil || (time.Until(cert.NotAfter)-asked).Abs() < endTolerance {
		return
	}
	fmt.Fprintf(c.App.ErrWriter, "The certificate is valid until %s; asked for were %gh.\n", cert.NotAfter.Local().Format(time.DateTime), asked.Hours())
	if issued.KeyHash == "" {
		fmt.Fprintf(c.App.ErrWriter, "The host that answered runs an earlier version, which knows neither --ttl nor --user, and the mesh does not list the certificate. On a host with this version 'virtmesh cert revoke %s' ends it.\n",
			identity.KeyHash(identity.PinOf(cert)))
	}
}

// certificateNames are the users whose certificates can be revoked.
func certificateNames(c *cli.Context) ([]string, error) {
	conn, err := connect(c)
	if err != nil {
		return nil, err
	}
	var list admin.Certificates
	if err := conn.mesh(c.Context, http.MethodGet, certificatesPath, nil, &list); err != nil {
		return nil, err
	}
	seen := map[string]bool{}
	var users []string
	for _, cert := range list.Certificates {
		if cert.Revoked == nil && !seen[cert.User] {
			seen[cert.User] = true
			users = append(users, cert.User)
		}
	}
	return users, nil
}
