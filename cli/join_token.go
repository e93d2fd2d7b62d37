package cli

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/urfave/cli/v2"
	"golang.org/x/term"
)

// tokenVariable is the environment variable that can hold the join token. Only root and
// the user of a process can read its environment.
const tokenVariable = "VIRTMESH_TOKEN"

func joinTokenFlag() cli.Flag {
	return &cli.StringFlag{Name: "token", Usage: "where the join token is: - for standard input, or @FILE (required, unless " + tokenVariable + " holds the token)"}
}

// maxTokenInput bounds what is read of a token, in bytes; a real one has less than 100.
const maxTokenInput = 4 << 10

// joinToken reads the join token from where --token says. A token that stands on the command
// line itself is refused: every user of the machine can read it there.
func joinToken(c *cli.Context) (string, error) {
	switch where := c.String("token"); {
	case where == "-":
		return typedToken(c)
	case strings.HasPrefix(where, "@"):
		file, err := os.Open(strings.TrimPrefix(where, "@"))
		if err != nil {
			return "", fmt.Errorf("read the token: %w", err)
		}
		defer file.Close()
		return readToken(file)
	case where != "":
		return "", errors.New("--token takes - (standard input) or @FILE, and not the token itself: every user of this machine can read a command line; if that was a token that still works, 'virtmesh token revoke' ends it")
	case os.Getenv(tokenVariable) != "":
		return strings.TrimSpace(os.Getenv(tokenVariable)), nil
	}
	return "", errors.New("give the join token with --token - or --token @FILE; 'virtmesh token create' on a host of the mesh prints one")
}

// typedToken reads the token from standard input, and asks for it on a terminal, which does
// not show it.
func typedToken(c *cli.Context) (string, error) {
	in, ok := c.App.Reader.(*os.File)
	if !ok || !term.IsTerminal(int(in.Fd())) {
		return readToken(c.App.Reader)
	}
	fmt.Fprint(c.App.ErrWriter, "join token: ")
	typed, err := term.ReadPassword(int(in.Fd()))
	fmt.Fprintln(c.App.ErrWriter)
	if err != nil {
		return "", fmt.Errorf("read the token: %w", err)
	}
	return readToken(strings.NewReader(string(typed)))
}

// readToken reads the first line, which is the token.
func readToken(from io.Reader) (string, error) {
	line, err := bufio.NewReader(io.LimitReader(from, maxTokenInput)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("read the token: %w", err)
	}
	if line = strings.TrimSpace(line); line == "" {
		return "", errors.New("read the token: there is none")
	}
	return line, nil
}
