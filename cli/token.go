package cli

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"time"

	"github.com/urfave/cli/v2"

	"virtmesh/agent/port/admin"
)

func tokenCommand() *cli.Command {
	return &cli.Command{
		Name: "token", Usage: "make, list and revoke the tokens that let a host join",
		Subcommands: []*cli.Command{
			{Name: "create", Usage: "make a token for one host and print it", Action: tokenCreate,
				Flags: []cli.Flag{
					&cli.DurationFlag{Name: "ttl", Value: time.Hour, Usage: "how long the token can be used"},
					&cli.StringFlag{Name: "file", Usage: "write the token to the new `FILE`, which only its owner can read, instead of printing it"},
					outputFlag(),
				}},
			{Name: "ls", Usage: "list tokens (never their secrets)", Flags: []cli.Flag{outputFlag()}, Action: tokenList},
			{Name: "revoke", Usage: "make tokens useless", ArgsUsage: "ID...", Action: tokenRevoke, BashComplete: offer(tokenIDs)},
		},
	}
}

func tokenCreate(c *cli.Context) error {
	path := c.String("file")
	if err := checkTokenFile(c, path); err != nil {
		return err
	}
	conn, err := connect(c)
	if err != nil {
		return err
	}
	var token admin.Token
	if err := conn.mesh(c.Context, http.MethodPost, "/mesh/v1/tokens", admin.TokenRequest{TTL: c.Duration("ttl")}, &token); err != nil {
		return err
	}
	if path != "" {
		if err := writeNew(path, func(f io.Writer) error {
			_, err := fmt.Fprintln(f, token.Secret)
			return err
		}); err != nil {
			return fmt.Errorf("write the token, which nobody has now ('virtmesh token revoke %s' ends it): %w", token.ID, err)
		}
		_, err = fmt.Fprintf(c.App.Writer, "%s has the token %s, which one host can use until %s\n", path, token.ID, token.Expires.Local().Format(time.DateTime))
		return err
	}
	if printed, err := printValue(c, token); printed {
		return err
	}
	_, err = fmt.Fprintln(c.App.Writer, token.Secret)
	return err
}

// checkTokenFile finds out, before a token is made, whether it can be written so that only its
// owner can read it.
func checkTokenFile(c *cli.Context, path string) error {
	switch {
	case path == "":
		return refuseOpenFile(c.App.Writer, "the token", "--file")
	case c.String("output") != "":
		return errors.New("--file writes the token alone; with --output it is printed")
	}
	if _, err := os.Lstat(path); err == nil {
		return fmt.Errorf("%s exists already; a token never overwrites", path)
	}
	return nil
}

func tokenList(c *cli.Context) error {
	conn, err := connect(c)
	if err != nil {
		return err
	}
	var tokens []admin.Token
	if err := conn.mesh(c.Context, http.MethodGet, "/mesh/v1/tokens", nil, &tokens); err != nil {
		return err
	}
	if printed, err := printValue(c, tokens); printed {
		return err
	}
	rows := make([][]string, 0, len(tokens))
	for _, token := range tokens {
		state := "valid"
		switch {
		case token.UsedBy != "":
			state = "used"
		case time.Now().After(token.Expires):
			state = "expired"
		}
		rows = append(rows, []string{token.ID, state, token.Expires.Local().Format(time.DateTime), token.UsedBy})
	}
	return printColumns(c.App.Writer, []string{"ID", "STATE", "EXPIRES", "USED BY"}, rows)
}

func tokenRevoke(c *cli.Context) error {
	if !c.Args().Present() {
		return errors.New("name the token's ID; 'virtmesh token ls' lists them")
	}
	conn, err := connect(c)
	if err != nil {
		return err
	}
	for _, id := range c.Args().Slice() {
		if err := conn.mesh(c.Context, http.MethodDelete, "/mesh/v1/tokens/"+url.PathEscape(id), nil, nil); err != nil {
			return err
		}
		fmt.Fprintf(c.App.Writer, "token %s revoked\n", id)
	}
	return nil
}
