package ephemeral

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"virtmesh/storage"
)

// socketsFolder is the name of the folder of a VM's sockets. No disk has it: their names
// have a suffix.
const socketsFolder = "sockets"

// mostSocketPath is the longest path of a UNIX socket, see unix(7).
const mostSocketPath = 107

// AgentSocket returns the path for the socket on which the agent in vm's guest is reached,
// in a folder that only this process's user may enter. The folder is there when
// AgentSocket returns. The socket is the emulator's to make.
func (d *Disks) AgentSocket(ctx context.Context, vm VM) (string, error) {
	path, err := d.makeSockets(ctx, vm)
	if err != nil {
		return "", fmt.Errorf("socket of the guest agent of %s/%s: %w", vm.Namespace, vm.Name, err)
	}
	return path, nil
}

func (d *Disks) makeSockets(ctx context.Context, vm VM) (string, error) {
	end, err := d.waitTurn(ctx, vm.UID)
	if err != nil {
		return "", err
	}
	defer end()
	if err := d.makeFolder(vm); err != nil {
		return "", err
	}
	folder := filepath.Join(d.folder(vm.UID), socketsFolder)
	path := filepath.Join(folder, "agent")
	if len(path) > mostSocketPath {
		return "", fmt.Errorf("%w: its path %s has %d bytes, a UNIX socket allows %d: choose a shorter folder than %s",
			storage.ErrInvalid, path, len(path), mostSocketPath, d.cfg.Dir)
	}
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return "", classifyNoSpace(err)
	}
	return path, nil
}
