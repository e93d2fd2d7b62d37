package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"

	"github.com/urfave/cli/v2"

	"virtmesh/agent"
	"virtmesh/agent/membership"
	"virtmesh/agent/port/admin"
	"virtmesh/raftstore"
	"virtmesh/storage/durable"
)

func agentBackup(c *cli.Context) error {
	if c.NArg() != 1 {
		return errors.New("name the file to write the backup to")
	}
	path := c.Args().First()
	if _, err := os.Lstat(path); err == nil {
		return fmt.Errorf("%s exists already; backups never overwrite", path)
	}
	conn, err := connectLocal(c)
	if err != nil {
		return fmt.Errorf("back up: %w", err)
	}
	var size int64
	err = writeNew(path, func(f io.Writer) (err error) {
		size, err = conn.download(c.Context, admin.BackupPath, f)
		return err
	})
	if err != nil {
		return fmt.Errorf("back up: %w", err)
	}
	_, err = fmt.Fprintf(c.App.Writer, "%s has the mesh's state (%d bytes). It holds all secrets, and the key of the mesh's CA unless only the voters hold that: keep it safe.\n", path, size)
	return err
}

// download copies the answer to a GET into w. An answer that ends early is an
// error.
func (c *connection) download(ctx context.Context, path string, w io.Writer) (int64, error) {
	response, err := c.call(ctx, http.MethodGet, path, nil)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	n, err := io.Copy(w, response.Body)
	if err != nil {
		return n, fmt.Errorf("read the agent's answer: %w", err)
	}
	return n, nil
}

// writeNew writes a file with mode 0600. The file must not exist; it is written as a
// whole or not at all, and survives a loss of power.
func writeNew(path string, write func(io.Writer) error) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-") // 0600
	if err != nil {
		return err
	}
	err = write(f)
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		// A link, unlike a rename, fails if the file was created meanwhile.
		err = os.Link(f.Name(), path)
	}
	if err == nil {
		err = durable.Sync(filepath.Dir(path))
	}
	return errors.Join(err, os.Remove(f.Name()))
}

// recoverOrRestore makes this host the only voter, with its own copy or with that
// of a backup.
func recoverOrRestore(ctx context.Context, config agent.Config, backup string, how membership.Recovery) (raftstore.Recovered, error) {
	if backup == "" {
		return membership.Recover(ctx, config.MembershipConfig, how)
	}
	f, err := os.Open(backup)
	if err != nil {
		return raftstore.Recovered{}, fmt.Errorf("read the backup: %w", err)
	}
	defer f.Close()
	return membership.Restore(ctx, config.MembershipConfig, f, how)
}

func agentResync(c *cli.Context) error {
	if !c.Bool("yes") {
		return errors.New("this deletes this host's copy of the mesh's state, to fetch it from the other hosts; repeat with --yes when they have it")
	}
	config, err := agent.LoadConfig(c.String("config"))
	if err != nil {
		return err
	}
	if err := membership.Resync(config.MembershipConfig); err != nil {
		return err
	}
	_, err = fmt.Fprintln(c.App.Writer, "this host's copy is gone; start its agent, which fetches a new one from the other hosts. Guests are not touched.")
	return err
}
