package cli

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
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
					outputFlag(),
				}},
			{Name: "ls", Usage: "list tokens (never their secrets)", Flags: []cli.Flag{outputFlag()}, Action: tokenList},
			{Name: "revoke", Usage: "make tokens useless", ArgsUsage: "ID...", Action: tokenRevoke, BashComplete: offer(tokenIDs)},
		},
	}
}

func tokenCreate(c *cli.Context) error {
	conn, err := connect(c)
	if err != nil {
		return err
	}
	var token admin.Token
	if err := conn.mesh(c.Context, http.MethodPost, "/mesh/v1/tokens", admin.TokenRequest{TTL: c.Duration("ttl")}, &token); err != nil {
		return err
	}
	if printed, err := printValue(c, token); printed {
		return err
	}
	_, err = fmt.Fprintln(c.App.Writer, token.Secret)
	return err
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
