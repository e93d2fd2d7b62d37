// Command virtmesh is the whole product: agent, commands and lab.
package main

import (
	"os"

	"virtmesh/cli"
)

func main() {
	os.Exit(cli.Run(os.Args, os.Stdin, os.Stdout, os.Stderr))
}
