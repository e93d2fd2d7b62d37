package cli

import (
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/urfave/cli/v2"

	"virtmesh/agent/port/admin"
)

func secretsCommand() *cli.Command {
	return &cli.Command{
		Name: "secrets", Usage: "look after the key that encrypts Secrets in the mesh's state",
		Subcommands: []*cli.Command{
			{Name: "rotate-key", Usage: "replace the key, and encrypt all Secrets with the new one", Action: secretsRotateKey,
				Description: "The new key encrypts once the recovery bundle gives it back and every voter has it: from feature level 5 on this needs nothing but a bundle that was made at that level; below it, or with an older bundle, make another one afterwards, with 'virtmesh keyring bundle'. The command can be given again: it begins nothing while a new key waits.",
				Flags: []cli.Flag{
					&cli.BoolFlag{Name: "status", Usage: "change nothing, and say how Secrets are stored"},
					outputFlag(),
				}},
		},
	}
}

func secretsRotateKey(c *cli.Context) error {
	if c.Args().Present() {
		return errors.New("secrets rotate-key takes no arguments")
	}
	conn, err := connect(c)
	if err != nil {
		return err
	}
	if !c.Bool("status") {
		if err := conn.mesh(c.Context, http.MethodPost, admin.SecretsPath+"/rotation", nil, nil); err != nil {
			return fmt.Errorf("replace the key for Secrets: %w", err)
		}
	}
	var keys admin.SecretKeys
	if err := conn.mesh(c.Context, http.MethodGet, admin.SecretsPath, nil, &keys); err != nil {
		return fmt.Errorf("read how Secrets are stored: %w", err)
	}
	if printed, err := printValue(c, keys); printed {
		return err
	}
	_, err = fmt.Fprintln(c.App.Writer, secretsSentence(&keys))
	return err
}

// secretsSentence says how Secrets are stored, and what is to be done next.
func secretsSentence(k *admin.SecretKeys) string {
	text := "Secrets are encrypted with the key " + k.Active
	switch {
	case k.Active == "" && k.Waiting == "":
		return "Secrets are in clear in the mesh's state: they are encrypted from feature level 4 on, once a recovery bundle has their key"
	case k.Active == "":
		text = "Secrets are in clear in the mesh's state"
	case k.Older+k.Clear > 0:
		text += fmt.Sprintf("; still to be encrypted with it: %d", k.Older+k.Clear)
	}
	switch {
	case k.Waiting != "" && k.Bundled:
		text += fmt.Sprintf("; the recovery bundle gives back the key %s, which encrypts once every voter has it", k.Waiting)
	case k.Waiting != "" && k.StaysGood:
		text += fmt.Sprintf("; the key %s encrypts once the recovery bundle gives it back, which takes seconds", k.Waiting)
	case k.Wanted && k.StaysGood:
		text += "; a new key is being made, and encrypts within seconds if every voter answers"
	case k.Waiting != "":
		text += fmt.Sprintf("; the key %s encrypts once a recovery bundle has it: '%s' as root on a voter", k.Waiting, bundleCommand)
	case k.Wanted:
		text += fmt.Sprintf("; a new key is being made, and encrypts once a recovery bundle has it: '%s' as root on a voter, in a few seconds", bundleCommand)
	}
	return text + votersSentence(k)
}

// votersSentence says which voters the key that waits is waiting for.
func votersSentence(k *admin.SecretKeys) (text string) {
	if len(k.Lacking) > 0 {
		text = "; still to get the new key: " + strings.Join(k.Lacking, ", ")
	}
	if len(k.Silent) > 0 {
		text += fmt.Sprintf("; the key waits for voters that do not answer, %s: start them, or remove those that are gone, with 'virtmesh node remove'", strings.Join(k.Silent, ", "))
	}
	return text
}
