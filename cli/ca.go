package cli

import (
	"cmp"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"virtmesh/agent/identity"
	"virtmesh/agent/kinds/meshv1alpha1"
	"virtmesh/agent/level"
	"virtmesh/agent/port/admin"
)

func caCommand() *cli.Command {
	return &cli.Command{
		Name: "ca", Usage: "show and replace the mesh's CA, which signs the certificates of hosts and people",
		Subcommands: []*cli.Command{
			{Name: "show", Aliases: []string{"status"}, Usage: "say which CA signs, which hosts follow it, and whom the ones before still let in", Flags: []cli.Flag{outputFlag()}, Action: caShow},
			{Name: "rotate", Usage: "replace the CA on every host, so that the key of the one before is worthless", Action: caRotate,
				Description: "It needs feature level 5 and a recovery bundle. Hosts get new certificates while they run; no connection is cut off. " +
					"Hosts that are off are let in by the CA before until the deadline, and must join anew after it. " +
					"The command can be given again, on any host: it goes on with a replacement that has begun.",
				Flags: []cli.Flag{
					&cli.DurationFlag{Name: "deadline", Value: admin.DefaultCADeadline, Action: checkCADeadline,
						Usage: fmt.Sprintf("for how long the CA before lets in hosts that were off, and people whose certificates are listed, at most %gh", admin.MaxCADeadline.Hours())},
					outputFlag(),
				}},
		},
	}
}

func checkCADeadline(_ *cli.Context, deadline time.Duration) error {
	if deadline < admin.MinCADeadline || deadline > admin.MaxCADeadline {
		return fmt.Errorf("--deadline must be from %s to %gh, and not %s", admin.MinCADeadline, admin.MaxCADeadline.Hours(), deadline)
	}
	return nil
}

func caRotate(c *cli.Context) error {
	conn, err := connect(c)
	if err != nil {
		return err
	}
	err = withProgress(c.Context, c.App.ErrWriter, conn, meshv1alpha1.CA, func() error {
		return conn.mesh(c.Context, http.MethodPost, admin.CAPath+"/rotation", admin.CARotationRequest{Deadline: c.Duration("deadline")}, nil)
	})
	if err != nil {
		return fmt.Errorf("replace the CA: %w", err)
	}
	return showCA(c, conn)
}

func caShow(c *cli.Context) error {
	conn, err := connect(c)
	if err != nil {
		return err
	}
	return showCA(c, conn)
}

func showCA(c *cli.Context, conn *connection) error {
	var ca admin.CAStatus
	if err := conn.mesh(c.Context, http.MethodGet, admin.CAPath, nil, &ca); err != nil {
		return fmt.Errorf("read which CA signs: %w", err)
	}
	if printed, err := printValue(c, ca); printed {
		return err
	}
	return printCA(c.App.Writer, &ca)
}

func printCA(w io.Writer, ca *admin.CAStatus) error {
	fmt.Fprintf(w, "Signs:    %s\n", caSentence(ca.Signing))
	if ca.Next != nil {
		fmt.Fprintf(w, "Next:     %s\n", caSentence(*ca.Next))
	}
	fmt.Fprintf(w, "Stage:    %s\nHosts:    %s\n", stageSentence(ca), hostsSentence(ca))
	for _, former := range ca.Former {
		fmt.Fprintf(w, "Former:   %s\n", formerSentence(former))
	}
	var rows [][]string
	for _, former := range ca.Former {
		for _, cert := range former.Certificates {
			until := cert.Expires
			if former.Until.Before(until) {
				until = former.Until
			}
			rows = append(rows, []string{cert.User, until.Local().Format(time.DateTime), cert.KeyHash[:min(len(cert.KeyHash), shortHash)]})
		}
	}
	if len(rows) == 0 {
		return nil
	}
	fmt.Fprintln(w, "\nThese kubeconfigs are still of a former CA; 'virtmesh kubeconfig --output FILE' makes new ones:")
	return printColumns(w, []string{"USER", "VALID UNTIL", "HASH"}, rows)
}

// caSentence tells one CA from another.
func caSentence(ca admin.CACertificate) string {
	short := ca.Fingerprint[:min(len(ca.Fingerprint), shortHash)]
	return fmt.Sprintf("%s (made %s, ends %s)", short, ca.Made.Local().Format(time.DateTime), ca.Expires.Local().Format(time.DateOnly))
}

// stageSentence says how far a replacement of the CA is.
func stageSentence(ca *admin.CAStatus) string {
	running := "; 'virtmesh operation watch " + cmp.Or(ca.Operation, "NAME") + "' follows the replacement"
	switch identity.CAStage(ca.Stage) {
	case "":
		if ca.KeyInState {
			return "the CA is the one that the mesh was made with, and every host and every backup holds its key: '" + bundleCommand + "' on a voter, then it can be replaced"
		}
		return "the CA is the one that the mesh was made with"
	case identity.CAWanted:
		return "the next CA is being made, and given to the voters" + running
	case identity.CAGiven:
		return "the hosts take the next CA; the present one signs" + running
	case identity.CASigning:
		return "the new CA signs, and the hosts get certificates of it" + running
	case identity.CAReplaced:
		return "the CA was replaced; the one before signs nothing any more"
	}
	return ca.Stage
}

// hostsSentence says which hosts are as the stage asks for.
func hostsSentence(ca *admin.CAStatus) string {
	text := fmt.Sprintf("%d as they should be", len(ca.Have))
	if len(ca.Waiting) > 0 {
		text += "; waiting for " + level.NameHosts(ca.Waiting)
	}
	if len(ca.Off) > 0 {
		text += "; off, and follow when they come back: " + level.NameHosts(ca.Off)
	}
	return text
}

// formerSentence says whom a CA that was replaced still lets in.
func formerSentence(former admin.FormerCA) string {
	until := former.Until.Local().Format(time.DateTime)
	if !former.Until.After(time.Now()) {
		return caSentence(former.CACertificate) + ": lets nobody in since " + until + "; a host that was off all the time joins anew"
	}
	text := caSentence(former.CACertificate) + ": lets hosts in that were off, until " + until
	if former.Vouched {
		return text + "; kubeconfigs of its time work until then"
	}
	return text + "; kubeconfigs of its time must be made anew now"
}

// caAfterRemoval says whether the removal of a host has replaced the CA, and if not, why and
// what is to be done.
func caAfterRemoval(c *cli.Context, name string, removed *admin.Removed) {
	switch {
	case removed.CAReplaced:
		fmt.Fprintf(c.App.Writer, "the mesh's CA was replaced, whose key %s may have had: make new kubeconfigs ('virtmesh ca show' says until when the present ones work)\n", name)
	case removed.CAKept != "":
		fmt.Fprintf(c.App.ErrWriter, "%s may still have the key of the mesh's CA, which was not replaced: %s; then run 'virtmesh ca rotate'\n", name, strings.TrimSuffix(removed.CAKept, "."))
	}
}

// otherCA is what to do when a host and a kubeconfig do not have the same CA.
const otherCA = "the mesh's CA was replaced since the kubeconfig was made, or this is a host of another mesh. Root on any host makes a new one: virtmesh kubeconfig --output FILE"

// explainOtherCA returns what an error in a handshake means that a replacement of the CA causes;
// empty for another error.
func explainOtherCA(err error) string {
	if unknown := new(x509.UnknownAuthorityError); errors.As(err, unknown) {
		return "the host's certificate is not of the CA in the kubeconfig: " + otherCA
	}
	if strings.Contains(err.Error(), "tls: unknown certificate authority") {
		return "the host does not take the kubeconfig's certificate: " + otherCA
	}
	return ""
}
