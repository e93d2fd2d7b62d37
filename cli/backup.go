package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"time"

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
	from := admin.BackupPath
	if c.Bool("plain") {
		from += "?plain=true"
	}
	var content admin.BackupContent
	err = writeNew(path, func(f io.Writer) (err error) {
		content, err = conn.download(c.Context, from, f)
		return err
	})
	if err != nil {
		return fmt.Errorf("back up: %w", err)
	}
	_, err = fmt.Fprintln(c.App.Writer, path+" "+backupSentence(content, c.Bool("plain")))
	return err
}

// backupSentence says what a backup holds, and who can read it.
func backupSentence(content admin.BackupContent, plain bool) string {
	holds := "It holds all Secrets, and not the key of the mesh's CA"
	if content.CAKey {
		holds = "It holds all Secrets and the key of the mesh's CA"
	}
	switch {
	case content.Encrypted:
		return "has the mesh's state, encrypted: to restore it, take the recovery bundle of " + content.Bundle.Made.Local().Format(time.DateOnly) +
			" or a later one of the same CA with its passphrase, or a host that was a voter. " + holds + "."
	case plain:
		return "has the mesh's state, not encrypted. " + holds + ": keep it safe."
	case content.Bundle == nil:
		return "has the mesh's state, not encrypted. " + holds + ": keep it safe. Backups are encrypted once there is a recovery bundle: " + bundleCommand
	}
	return "has the mesh's state, not encrypted. " + holds + ": keep it safe. Backups are encrypted from feature level 4 on ('virtmesh level')."
}

// download copies the answer to a GET of a backup into w, and returns what the agent says of
// it. An answer that ends early is an error.
func (c *connection) download(ctx context.Context, path string, w io.Writer) (admin.BackupContent, error) {
	content := admin.BackupContent{CAKey: true} // what an agent of before does not say
	response, err := c.call(ctx, http.MethodGet, path, nil)
	if err != nil {
		return content, err
	}
	defer response.Body.Close()
	if said := response.Header.Get(admin.BackupHeader); said != "" {
		if err := json.Unmarshal([]byte(said), &content); err != nil {
			return content, fmt.Errorf("read the agent's answer: %w", err)
		}
	}
	if _, err := io.Copy(w, response.Body); err != nil {
		return content, fmt.Errorf("read the agent's answer: %w", err)
	}
	return content, nil
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
