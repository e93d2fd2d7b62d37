package guestservices

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"time"

	dto "github.com/prometheus/client_model/go"
	"golang.org/x/sys/unix"
)

// protocolVersion is in every request and every reply, which are one JSON object each on a
// connection of their own. Both sides ignore fields that they do not know. Every version of
// the process understands what it is asked to renew itself, whatever the version.
const protocolVersion = 1

// What the agent asks of the process.
const (
	// askStatus applies the file, if it has changed, and tells how it went.
	askStatus = "status"
	// askRenew makes the process execute another program in its place. The request comes with
	// that program, open: the process's user need not reach it by a path.
	askRenew = "renew"
)

type request struct {
	Protocol int    `json:"protocol"`
	Ask      string `json:"ask"`
}

type reply struct {
	Protocol int `json:"protocol"`
	// Build says which program the process runs, see Build.
	Build string `json:"build"`
	PID   int    `json:"pid"`
	// Revision says which file the process answers from, see revisionOf.
	Revision string `json:"revision,omitempty"`
	// Failed are the servers that do not run, by subject, and why.
	Failed map[string]string `json:"failed,omitempty"`
	// Counters count what guests have asked since the process started.
	Counters []counter `json:"counters,omitempty"`
	// Error says why the request was refused.
	Error string `json:"error,omitempty"`

	// server is who opened the control socket, as the kernel has it; the zero value if none
	// was reached.
	server unix.Ucred
}

// counter is one sample of a metric.
type counter struct {
	Name   string            `json:"name"`
	Labels map[string]string `json:"labels,omitempty"`
	Value  float64           `json:"value"`
}

// countersOf turns gathered metrics into counters.
func countersOf(families []*dto.MetricFamily) []counter {
	var out []counter
	for _, family := range families {
		for _, m := range family.GetMetric() {
			if m.GetCounter() == nil {
				continue
			}
			labels := map[string]string{}
			for _, l := range m.GetLabel() {
				labels[l.GetName()] = l.GetValue()
			}
			out = append(out, counter{Name: family.GetName(), Labels: labels, Value: m.GetCounter().GetValue()})
		}
	}
	return out
}

// Files in the folder that the agent and the process share.
const (
	stateName   = "state.json"
	lockName    = "lock"
	controlName = "control.sock"
)

// maxRequest and maxReply bound what either side reads of the other, in bytes.
const (
	maxRequest = 4 << 10
	maxReply   = 1 << 20
)

// exchangeTimeout bounds a request and its reply.
const exchangeTimeout = 2 * time.Second

// errBusy says that another process serves the folder.
var errBusy = errors.New("guest services already run for this folder")

// openLock takes the lock of a folder for as long as the descriptor is open.
func openLock(dir string) (fd int, err error) {
	path := filepath.Join(dir, lockName)
	fd, err = unix.Open(path, unix.O_CREAT|unix.O_RDWR|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return 0, fmt.Errorf("open %s: %w", path, err)
	}
	if err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = unix.Close(fd)
		if errors.Is(err, unix.EWOULDBLOCK) {
			return 0, fmt.Errorf("%s: %w", dir, errBusy)
		}
		return 0, fmt.Errorf("lock %s: %w", path, err)
	}
	return fd, nil
}

// listenControl opens the control socket. Only the process's user and root may use it.
func listenControl(dir string) (*net.UnixListener, error) {
	path := filepath.Join(dir, controlName)
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("remove the old control socket: %w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("open the control socket: %w", err)
	}
	l.SetUnlinkOnClose(false)
	if err := os.Chmod(path, 0o600); err != nil {
		_ = l.Close()
		return nil, fmt.Errorf("set the mode of the control socket: %w", err)
	}
	return l, nil
}

// asked is a request that waits for its reply. The connection ends after it.
type asked struct {
	request
	// programs are the open files that came with the request.
	programs []int
	conn     net.Conn
}

// answer sends the reply and ends the connection.
func (a asked) answer(r reply) {
	_ = json.NewEncoder(a.conn).Encode(r) // the agent may have gone
	_ = a.conn.Close()
}

// drop ends the request and closes what came with it.
func (a asked) drop() {
	_ = a.conn.Close()
	for _, fd := range a.programs {
		_ = unix.Close(fd)
	}
}

// readRequest reads a request, and the files that came with it.
func readRequest(conn *net.UnixConn) (asked, error) {
	a := asked{conn: conn}
	text, rights := make([]byte, maxRequest), make([]byte, unix.CmsgSpace(4))
	n, oobn, _, _, err := conn.ReadMsgUnix(text, rights)
	if err != nil {
		return a, err
	}
	messages, err := unix.ParseSocketControlMessage(rights[:oobn])
	if err != nil {
		return a, err
	}
	for _, m := range messages {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			return a, err
		}
		for _, fd := range fds {
			unix.CloseOnExec(fd)
		}
		a.programs = append(a.programs, fds...)
	}
	return a, json.Unmarshal(text[:n], &a.request)
}

// acceptRequests reads requests one after the other and passes them on, until the listener
// is closed.
func acceptRequests(ctx context.Context, l *net.UnixListener, out chan<- asked) error {
	for {
		conn, err := l.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("accept on the control socket: %w", err)
		}
		_ = conn.SetDeadline(time.Now().Add(exchangeTimeout))
		a, err := readRequest(conn)
		if err != nil {
			a.drop()
			continue
		}
		select {
		case out <- a:
		case <-ctx.Done():
			a.drop()
			return nil
		}
	}
}

func rightsFor(files []int) []byte {
	if len(files) == 0 {
		return nil
	}
	return unix.UnixRights(files...)
}

// exchange asks the process of a folder, and hands it open files.
func exchange(ctx context.Context, dir string, r request, files ...int) (reply, error) {
	ctx, cancel := context.WithTimeout(ctx, exchangeTimeout)
	defer cancel()
	r.Protocol = protocolVersion
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(dir, controlName))
	if err != nil {
		return reply{}, err
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	_ = conn.SetDeadline(deadline)
	var got reply
	if got.server, err = serverOf(conn.(*net.UnixConn)); err != nil {
		return reply{}, fmt.Errorf("ask guest services who they are: %w", err)
	}
	text, err := json.Marshal(r)
	if err == nil {
		_, _, err = conn.(*net.UnixConn).WriteMsgUnix(text, rightsFor(files), nil)
	}
	if err == nil {
		err = json.NewDecoder(io.LimitReader(conn, maxReply)).Decode(&got)
	}
	switch {
	case err != nil:
		return reply{server: got.server}, fmt.Errorf("ask guest services: %w", err)
	case got.Error != "":
		return got, fmt.Errorf("guest services: %s", got.Error)
	}
	return got, nil
}
