package cli

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/term"

	"virtmesh/agent/hostseal"
	"virtmesh/agent/identity"
	"virtmesh/agent/membership"
	"virtmesh/agent/port/admin"
)

func keyringCommand() *cli.Command {
	return &cli.Command{
		Name: "keyring", Usage: "keep the keys of the mesh from being lost with the voters",
		Subcommands: []*cli.Command{
			{Name: "bundle", Usage: "write a recovery bundle: the keyring of the voters, encrypted with a passphrase", Action: keyringBundle,
				Description: "Run it as root on a voter. Once there is a bundle, the CA's key leaves the mesh's state, Secrets are encrypted in it, and only the voters hold the keys. " +
					"From feature level 5 on the newest bundle stays good when keys are replaced. " +
					"'virtmesh agent recover --keyring-bundle FILE' takes the bundle when all voters are lost. Keep the file and the passphrase apart, and neither on a host of the mesh.",
				Flags: []cli.Flag{
					&cli.StringFlag{Name: "output", Usage: "the new `FILE` (required)"},
					&cli.StringFlag{Name: "state-dir", Usage: "take the keyring from the state directory `DIR` of a voter whose agent does not run, and tell the mesh nothing"},
					passphraseFlag(),
				}},
		},
	}
}

func passphraseFlag() cli.Flag {
	return &cli.StringFlag{Name: "passphrase", Usage: "where the passphrase of the recovery bundle is: - for standard input, or @FILE (default: ask on the terminal)"}
}

// maxPassphraseInput bounds what is read of a passphrase, in bytes.
const maxPassphraseInput = 4 << 10

// readPassphrase reads a passphrase from where --passphrase says. A new one is asked for
// twice on a terminal.
func readPassphrase(c *cli.Context, fresh bool) (string, error) {
	switch where := c.String("passphrase"); {
	case strings.HasPrefix(where, "@"):
		file, err := os.Open(strings.TrimPrefix(where, "@"))
		if err != nil {
			return "", fmt.Errorf("read the passphrase: %w", err)
		}
		defer file.Close()
		return firstLine(file)
	case where == "-":
		return firstLine(c.App.Reader)
	case where != "":
		return "", errors.New("--passphrase takes - (standard input) or @FILE, and not the passphrase itself: every user of this machine can read a command line")
	}
	in, ok := c.App.Reader.(*os.File)
	if !ok || !term.IsTerminal(int(in.Fd())) {
		return "", errors.New("there is no terminal to ask for the passphrase: give it with --passphrase - or --passphrase @FILE")
	}
	first, err := askHidden(c, in, "passphrase of the recovery bundle: ")
	if err != nil || !fresh {
		return first, err
	}
	again, err := askHidden(c, in, "the same again: ")
	if err != nil {
		return "", err
	}
	if first != again {
		return "", errors.New("the two passphrases differ")
	}
	return first, nil
}

func askHidden(c *cli.Context, in *os.File, prompt string) (string, error) {
	fmt.Fprint(c.App.ErrWriter, prompt)
	typed, err := term.ReadPassword(int(in.Fd()))
	fmt.Fprintln(c.App.ErrWriter)
	if err != nil {
		return "", fmt.Errorf("read the passphrase: %w", err)
	}
	return string(typed), nil
}

// firstLine reads the first line, without its end.
func firstLine(from io.Reader) (string, error) {
	data, err := io.ReadAll(io.LimitReader(from, maxPassphraseInput))
	if err != nil {
		return "", fmt.Errorf("read the passphrase: %w", err)
	}
	line, _, _ := strings.Cut(string(data), "\n")
	if line = strings.TrimSuffix(line, "\r"); line == "" {
		return "", errors.New("read the passphrase: there is none")
	}
	return line, nil
}

func keyringBundle(c *cli.Context) error {
	path := c.String("output")
	if path == "" {
		return errors.New("name the file for the bundle with --output FILE")
	}
	if err := refuseOldFile(path); err != nil {
		return err
	}
	if dir := c.String("state-dir"); dir != "" {
		return bundleFrom(c, dir, path)
	}
	conn, err := connectLocal(c)
	if err != nil {
		return fmt.Errorf("make a recovery bundle: %w", err)
	}
	var bundle identity.Bundle
	if err := conn.mesh(c.Context, http.MethodGet, admin.KeyringBundlePath, nil, &bundle); err != nil {
		return fmt.Errorf("make a recovery bundle: %w", err)
	}
	passphrase, err := readPassphrase(c, true)
	if err != nil {
		return err
	}
	// Here and not in the agent: what opens later keys is only in the bundle.
	if err := bundle.AddRecipient(); err != nil {
		return err
	}
	if err := writeBundle(path, bundle, passphrase); err != nil {
		return err
	}
	secrets, err := bundle.SecretKeyIDs()
	if err != nil {
		return err
	}
	recipient, err := bundle.Recipient()
	if err != nil {
		return err
	}
	ca, err := bundle.CAPin()
	if err != nil {
		return err
	}
	// Only now: keys leave the mesh's state, and encrypt, because there is a bundle.
	made := admin.KeyringBundleRequest{Made: bundle.Made, CAPin: ca.String(), SecretKeys: secrets, Recipient: recipient}
	if err := conn.mesh(c.Context, http.MethodPost, admin.KeyringBundlePath, made, nil); err != nil {
		return fmt.Errorf("%s is a complete recovery bundle, and the mesh does not know of it: make another one: %w", path, err)
	}
	_, err = fmt.Fprintln(c.App.Writer, bundleSentence(path, bundle.MeshID))
	return err
}

// bundleFrom makes a recovery bundle from a state directory, for a mesh that is to be recovered.
func bundleFrom(c *cli.Context, dir, path string) error {
	bundle, err := membership.ReadBundle(dir)
	if err != nil {
		return fmt.Errorf("make a recovery bundle: %w", err)
	}
	passphrase, err := readPassphrase(c, true)
	if err != nil {
		return err
	}
	if err := writeBundle(path, bundle, passphrase); err != nil {
		return err
	}
	_, err = fmt.Fprintf(c.App.Writer, "%s has the keys of mesh %s that are in %s, for 'virtmesh agent recover --keyring-bundle'. The mesh does not know of it: once it is back, make a bundle as usual.\n", path, bundle.MeshID, dir)
	return err
}

// bundleSentence says what a recovery bundle is good for, once there is one.
func bundleSentence(path, meshID string) string {
	return fmt.Sprintf("%s restores the keyring of mesh %s, with its passphrase. Keep the two apart, and away from the hosts: without them the mesh cannot be recovered once all voters are lost.", path, meshID)
}

// refuseOldFile returns an error if there is a file where a recovery bundle shall be.
func refuseOldFile(path string) error {
	if _, err := os.Lstat(path); err == nil {
		return fmt.Errorf("%s exists already; a recovery bundle never overwrites", path)
	}
	return nil
}

// writeBundle writes a recovery bundle to a new file.
func writeBundle(path string, bundle identity.Bundle, passphrase string) error {
	sealed, err := sealBundle(bundle, passphrase)
	if err != nil {
		return err
	}
	err = writeNew(path, func(f io.Writer) error {
		_, err := f.Write(sealed)
		return err
	})
	if err != nil {
		return fmt.Errorf("write the recovery bundle: %w", err)
	}
	return nil
}

// firstBundle is the recovery bundle that 'agent init --keyring-bundle' makes. Without the
// flag there is none: path is empty.
type firstBundle struct {
	path, passphrase, meshID string
}

// askFirstBundle reads the flags, and the passphrase, before anything is made.
func askFirstBundle(c *cli.Context) (*firstBundle, error) {
	b := &firstBundle{path: c.String("keyring-bundle")}
	if b.path == "" {
		if c.IsSet("passphrase") {
			return nil, errors.New("--passphrase is that of a recovery bundle: name its file with --keyring-bundle FILE")
		}
		return b, nil
	}
	if err := refuseOldFile(b.path); err != nil {
		return nil, err
	}
	var err error
	if b.passphrase, err = readPassphrase(c, true); err != nil {
		return nil, err
	}
	return b, identity.ValidatePassphrase(b.passphrase)
}

// keep returns what writes the bundle; nil if none was asked for.
func (b *firstBundle) keep() func(identity.Bundle) error {
	if b.path == "" {
		return nil
	}
	return func(bundle identity.Bundle) error {
		if err := writeBundle(b.path, bundle, b.passphrase); err != nil {
			return err
		}
		b.meshID = bundle.MeshID
		return nil
	}
}

// remove deletes the bundle of a mesh that was not made after all. It stays if the mesh's state
// stayed below stateDir, too: its keys are in no other place that outlives this machine.
func (b *firstBundle) remove(stateDir string) error {
	if b.meshID == "" {
		return nil
	}
	if made, err := identity.Initialised(stateDir); made || err != nil {
		return errors.Join(err, fmt.Errorf("the mesh's state stays in %s, and its recovery bundle in %s", stateDir, b.path))
	}
	return os.Remove(b.path)
}

// sentence says what there is, or the next command.
func (b *firstBundle) sentence() string {
	if b.path == "" {
		return "Until there is a recovery bundle, every host and every backup will hold the key of the mesh's CA. Make one while the mesh is new: " + bundleCommand
	}
	return bundleSentence(b.path, b.meshID)
}

// bundleCommand makes a recovery bundle.
const bundleCommand = "virtmesh keyring bundle --output FILE"

// secretsStatusCommand says which voters a key for Secrets waits for.
const secretsStatusCommand = "virtmesh secrets rotate-key --status"

// sealBundle encrypts a bundle and opens it again: one that cannot be opened is worse than
// none.
func sealBundle(bundle identity.Bundle, passphrase string) ([]byte, error) {
	sealed, err := bundle.Seal(passphrase)
	if err != nil {
		return nil, err
	}
	if _, err := identity.OpenBundle(bytes.NewReader(sealed), passphrase); err != nil {
		return nil, err
	}
	return sealed, nil
}

// openBundle opens the recovery bundle that --keyring-bundle names; nil if it names none.
func openBundle(c *cli.Context) (*identity.Bundle, error) {
	path := c.String("keyring-bundle")
	if path == "" {
		return nil, nil
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read the recovery bundle: %w", err)
	}
	defer file.Close()
	passphrase, err := readPassphrase(c, false)
	if err != nil {
		return nil, err
	}
	bundle, err := identity.OpenBundle(file, passphrase)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return &bundle, nil
}

// keyringSentence says where the private key of the mesh's CA is, whether Secrets are encrypted,
// and how the answering host has its keys on its disk, unless they are in the mesh's state there,
// too.
func keyringSentence(k *admin.KeyringStatus) string {
	switch {
	case k.CAKeyInState:
	case k.Seal.With == hostseal.KindTPM:
		return custodySentence(k) + "; on this host's disk sealed with its TPM"
	case k.Seal.With == hostseal.KindFile:
		return custodySentence(k) + "; on this host's disk sealed with a file of root's"
	}
	return custodySentence(k)
}

func custodySentence(k *admin.KeyringStatus) string {
	where := "only the voters hold the CA's key"
	if k.CAKeyInState {
		where = "every host and every backup holds the CA's key"
	}
	switch {
	case k.SecretsEncrypted && k.SecretKeyBundled:
		where += "; Secrets are encrypted, with a new key once every voter has it ('" + secretsStatusCommand + "')"
	case k.SecretKeyBundled:
		where += "; Secrets are in clear until every voter has their key ('" + secretsStatusCommand + "')"
	case k.SecretKeyWaits && k.Bundle != nil && k.Bundle.StaysGood:
		if !k.SecretsEncrypted {
			where += "; Secrets are in clear"
		} else {
			where += "; Secrets are encrypted"
		}
		where += ", and a new key waits until the recovery bundle gives it back, which takes seconds"
	case k.SecretsEncrypted && k.SecretKeyWaits:
		where += "; Secrets are encrypted, with a new key once a recovery bundle has it ('" + bundleCommand + "' on a voter)"
	case k.SecretsEncrypted:
		where += "; Secrets are encrypted"
	case k.SecretKeyWaits:
		where += "; Secrets are in clear until a recovery bundle has their key ('" + bundleCommand + "' on a voter)"
	}
	switch {
	case k.Bundle == nil:
		return where + "; no recovery bundle: make one on a voter with '" + bundleCommand + "'"
	case !k.Bundle.Current:
		return where + "; the recovery bundle of " + k.Bundle.Made.Local().Format(time.DateOnly) + " is outdated: make one on a voter with '" + bundleCommand + "'"
	}
	where += "; recovery bundle of " + k.Bundle.Made.Local().Format(time.DateOnly)
	switch {
	case k.Bundle.StaysGood:
		where += ", which stays good when keys are replaced"
	case k.BundlesStayGood:
		where += ", of an earlier version: a new one stays good when keys are replaced ('" + bundleCommand + "' on a voter)"
	}
	if k.CAKeyInState {
		where += "; the key leaves the mesh's state at feature level 3, once every voter answers"
	}
	return where
}
