package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// sshKey is the file of the key that opens every host of the lab that is a machine. It
// is this lab's alone, and ends with it.
const sshKey = "ssh-key"

// publicKey returns the lab's public key without its type, and makes the key if there is none.
func (l machines) publicKey(ctx context.Context) (string, error) {
	path := filepath.Join(l.dir, sshKey)
	if _, err := os.Stat(path + ".pub"); errors.Is(err, fs.ErrNotExist) {
		os.Remove(path)
		out, err := exec.CommandContext(ctx, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "lab", "-f", path).CombinedOutput()
		if err != nil {
			return "", fmt.Errorf("make the lab's key: %w: %s", err, strings.TrimSpace(string(out)))
		}
	}
	data, err := os.ReadFile(path + ".pub")
	if err != nil {
		return "", fmt.Errorf("read the lab's key: %w", err)
	}
	fields := strings.Fields(string(data))
	if len(fields) < 2 {
		return "", fmt.Errorf("%s.pub has no key; end the lab and start a new one", path)
	}
	return fields[1], nil
}

func (l machines) portFile(h Host) string { return filepath.Join(l.hostDir(h), "ssh-port") }

func (l machines) writePort(h Host, port int) error {
	if err := os.WriteFile(l.portFile(h), []byte(strconv.Itoa(port)), 0o644); err != nil {
		return fmt.Errorf("note the port of %s: %w", h.Name, err)
	}
	return nil
}

// command implements chassis. The first command opens a connection that the next ones
// share, because a new one takes an emulated machine seconds.
func (l machines) command(ctx context.Context, h Host, _ int, argv []string) *exec.Cmd {
	port, err := os.ReadFile(l.portFile(h))
	if err != nil {
		port = []byte("0") // a damaged lab: ssh says that it cannot connect
	}
	args := []string{
		"-i", filepath.Join(l.dir, sshKey), "-p", string(port), "-t", "-o", "LogLevel=ERROR", "-o", "BatchMode=yes",
		// Nothing but the host's QEMU is at this port, and a host has new keys whenever
		// it has a new disk.
		"-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-F", "/dev/null",
		"-o", "ConnectTimeout=20", "-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=4",
	}
	if socket := filepath.Join(l.hostDir(h), "ssh-"+string(port)); len(socket) < 80 { // a UNIX socket's name is short
		args = append(args, "-o", "ControlMaster=auto", "-o", "ControlPersist=60", "-o", "ControlPath="+strings.ReplaceAll(socket, "%", "%%"))
	}
	words := make([]string, 0, len(argv))
	for _, arg := range argv {
		words = append(words, ShellWord(arg))
	}
	cmd := exec.CommandContext(ctx, "ssh", append(args, "root@127.0.0.1", "--", strings.Join(words, " "))...)
	return cmd
}

// plainWord matches what no shell changes.
var plainWord = regexp.MustCompile(`^[A-Za-z0-9_@%+=:,./-]+$`)

// ShellWord quotes a text so that a shell reads it as one word, itself.
func ShellWord(text string) string {
	if plainWord.MatchString(text) {
		return text
	}
	return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
}

// install implements chassis.
func (l machines) install(ctx context.Context, h Host, pkg string, progress func(string, ...any)) error {
	if cmd, err := l.Command(ctx, h, "sh", "-c", "command -v virtmesh"); err != nil {
		return err
	} else if cmd.Run() == nil {
		return nil
	}
	if pkg == "" {
		progress("copying the program to %s", h.Name)
		return l.pipe(ctx, h, l.executable, "cat >/usr/local/bin/.new && chmod 755 /usr/local/bin/.new && mv /usr/local/bin/.new /usr/local/bin/virtmesh")
	}
	progress("installing %s on %s", filepath.Base(pkg), h.Name)
	return l.pipe(ctx, h, pkg, "cat >/root/virtmesh.deb && DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends /root/virtmesh.deb </dev/null")
}

// pipe runs a shell script in the host that reads the file.
func (l machines) pipe(ctx context.Context, h Host, file, script string) error {
	in, err := os.Open(file)
	if err != nil {
		return fmt.Errorf("install virtmesh on %s: %w", h.Name, err)
	}
	defer in.Close()
	cmd, err := l.Command(ctx, h, "sh", "-c", script)
	if err != nil {
		return err
	}
	cmd.Stdin = in
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("install virtmesh on %s: %w: %s", h.Name, err, strings.TrimSpace(string(out)))
	}
	return nil
}
