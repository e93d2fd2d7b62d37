package cli

import (
	"fmt"

	"github.com/urfave/cli/v2"
)

// manCommand prints the manual page that packages contain. It is made from the commands
// themselves, so it lists the flags that this version has.
func manCommand() *cli.Command {
	return &cli.Command{
		Name: "man", Usage: "print the manual page", Hidden: true,
		Action: func(c *cli.Context) error {
			page, err := c.App.ToManWithSection(8)
			if err != nil {
				return fmt.Errorf("make the manual page: %w", err)
			}
			_, err = fmt.Fprint(c.App.Writer, page)
			return err
		},
	}
}
