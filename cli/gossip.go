package cli

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/urfave/cli/v2"

	"virtmesh/agent/kinds/meshv1alpha1"
	"virtmesh/agent/level"
	"virtmesh/agent/port/admin"
)

func gossipCommand() *cli.Command {
	return &cli.Command{
		Name: "gossip", Usage: "look after the key that encrypts gossip between the hosts",
		Subcommands: []*cli.Command{
			{Name: "rotate-key", Usage: "replace the key on every host, so that the old one is worthless", Action: gossipRotateKey,
				Description: "Hosts that are off get the new key when they come back. The command can be given again, on any host: it goes on with a replacement that has begun.",
				Flags: []cli.Flag{
					&cli.BoolFlag{Name: "status", Usage: "change nothing, and say which hosts have the keys"},
					outputFlag(),
				}},
		},
	}
}

func gossipRotateKey(c *cli.Context) error {
	if c.Args().Present() {
		return errors.New("gossip rotate-key takes no arguments")
	}
	conn, err := connect(c)
	if err != nil {
		return err
	}
	if !c.Bool("status") {
		err := withProgress(c.Context, c.App.ErrWriter, conn, meshv1alpha1.GossipKey, func() error {
			return conn.mesh(c.Context, http.MethodPost, admin.GossipPath+"/rotation", nil, nil)
		})
		if err != nil {
			return fmt.Errorf("replace the gossip key: %w", err)
		}
	}
	var keys admin.GossipKeys
	if err := conn.mesh(c.Context, http.MethodGet, admin.GossipPath, nil, &keys); err != nil {
		return fmt.Errorf("read which hosts have the gossip keys: %w", err)
	}
	if printed, err := printValue(c, keys); printed {
		return err
	}
	_, err = fmt.Fprintln(c.App.Writer, gossipSentence(&keys))
	return err
}

// gossipSentence says which keys the hosts accept and who has them.
func gossipSentence(k *admin.GossipKeys) string {
	var text string
	switch {
	case k.Accepted > 1 && k.Stage == "Used":
		text = fmt.Sprintf("the hosts encrypt gossip with a new key and accept %d keys: the replacement has not ended ('virtmesh operation ls')", k.Accepted)
	case k.Accepted > 1:
		text = fmt.Sprintf("the hosts accept %d gossip keys and do not use the new one yet: the replacement has not ended ('virtmesh operation ls')", k.Accepted)
	case k.Generation == 0:
		text = "the gossip key is the one that the mesh was made with"
	default:
		text = "the gossip key was replaced; the one before is refused"
	}
	text += fmt.Sprintf("; hosts that have it: %d", len(k.Have))
	if len(k.Waiting) > 0 {
		text += "; waiting for " + level.NameHosts(k.Waiting)
	}
	if len(k.Off) > 0 {
		text += "; off, and get it when they come back: " + level.NameHosts(k.Off)
	}
	return text
}
