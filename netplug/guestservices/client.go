package guestservices

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"virtmesh/netplug/dhcp"
	"virtmesh/netplug/dns"
)

// ClientConfig configures a Client. All fields but Registerer are required.
type ClientConfig struct {
	// Dir is the folder that the agent shares with the process.
	Dir string
	// Account is the process's. Its group may read the file and make a socket. A process of
	// another user, from before there was this account, can do neither, and is replaced.
	Account Account
	// Build and Program say which program the process is to run, see BuildOf.
	Build, Program string
	// WriteFile replaces a file in one step.
	WriteFile func(path string, data []byte, perm fs.FileMode) error
	// Start has the process started. It need not wait for it.
	Start      func(context.Context) error
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// Client is the agent's side: it writes the file, and looks after the process. Its methods
// may be called at once. Close leaves the process as it is.
type Client struct {
	cfg ClientConfig

	mu      sync.Mutex
	written []byte
	// mayStart and mayRenew are the times before which the process is not started, or asked
	// to renew itself, again.
	mayStart, mayRenew time.Time
}

// pause is how long a Client waits after it started or renewed the process, before it tries
// the same again.
const pause = 10 * time.Second

// startTimeout bounds how long a Client waits for a process that was started.
const startTimeout = 3 * time.Second

// Subject is what the failures of the process as a whole are called.
const Subject = "guest services"

// NewClient returns a Client. It does nothing on the host before the first Set.
func NewClient(cfg ClientConfig) (*Client, error) {
	switch {
	case cfg.Dir == "" || cfg.Build == "" || cfg.Program == "":
		return nil, errors.New("guest services: Dir, Build or Program is missing")
	case cfg.WriteFile == nil || cfg.Start == nil || cfg.Logger == nil:
		return nil, errors.New("guest services: WriteFile, Start or Logger is missing")
	}
	c := &Client{cfg: cfg}
	if cfg.Registerer != nil {
		if err := cfg.Registerer.Register(newCollector(cfg.Dir)); err != nil {
			return nil, fmt.Errorf("register the metrics of guest services: %w", err)
		}
	}
	return c, nil
}

// Set has the guests answered as the state says, from now on and also when the agent is
// gone. It returns the failures by subject, such as "dhcp vm-pod". It takes a few seconds at
// most.
func (c *Client) Set(ctx context.Context, want State) map[string]error {
	c.mu.Lock()
	defer c.mu.Unlock()
	revision, err := c.write(want)
	if err != nil {
		return map[string]error{Subject: err}
	}
	r, err := c.status(ctx)
	if err == nil && r.Build != c.cfg.Build {
		r, err = c.renew(ctx, r)
	}
	failed := map[string]error{}
	for subject, text := range r.Failed {
		failed[subject] = errors.New(text)
	}
	switch {
	case err != nil:
		failed[Subject] = err
	case r.Revision != revision && len(failed) == 0:
		failed[Subject] = errors.New("they do not answer from the newest file")
	}
	return failed
}

// Close implements netplug.Services. The process goes on.
func (c *Client) Close() error { return nil }

// write makes the folder and writes the file, if either is not as it should be.
func (c *Client) write(want State) (revision string, err error) {
	data, err := Encode(want)
	if err != nil {
		return "", err
	}
	if err := prepareDir(c.cfg.Dir, c.cfg.Account.GID); err != nil {
		return "", fmt.Errorf("prepare the folder of guest services: %w", err)
	}
	path := filepath.Join(c.cfg.Dir, stateName)
	if c.written == nil || !bytes.Equal(c.written, data) || !isThere(path) {
		if err := c.cfg.WriteFile(path, data, 0o640); err != nil {
			return "", err
		}
		c.written = data
	}
	return revisionOf(data), nil
}

func isThere(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// dirMode lets the process make its socket and its lock, and neither remove nor replace what
// the agent has made there. Files belong to the process's group from their first moment, so
// that it never meets one that it may not read.
const dirMode = fs.ModeSticky | fs.ModeSetgid | 0o770

// prepareDir makes the folder, or puts its owner and mode right.
func prepareDir(dir string, gid int) error {
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return fmt.Errorf("%s is not a folder", dir)
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if ok && int(st.Uid) == os.Geteuid() && int(st.Gid) == gid && info.Mode()&(fs.ModePerm|fs.ModeSticky|fs.ModeSetgid) == dirMode {
		return nil
	}
	return errors.Join(os.Lchown(dir, os.Geteuid(), gid), os.Chmod(dir, dirMode))
}

// status asks the process, and starts it if there is none of its account.
func (c *Client) status(ctx context.Context) (reply, error) {
	r, err := exchange(ctx, c.cfg.Dir, request{Ask: askStatus})
	switch {
	case c.isForeign(r):
		c.cfg.Logger.Info("guest services of another user are replaced", "pid", r.server.Pid, "uid", r.server.Uid)
		if err := endProcess(r.server); err != nil {
			return r, fmt.Errorf("end those of user %d: %w", r.server.Uid, err)
		}
	case !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ECONNREFUSED):
		return r, err
	case time.Now().Before(c.mayStart):
		return r, fmt.Errorf("they were started and do not run: %w", err)
	}
	c.mayStart = time.Now().Add(pause)
	if err := removeForeign(c.cfg.Dir, c.cfg.Account.UID); err != nil {
		return r, fmt.Errorf("start them: %w", err)
	}
	if err := c.cfg.Start(ctx); err != nil {
		return r, fmt.Errorf("start them: %w", err)
	}
	return c.await(ctx, func(r reply) bool { return !c.isForeign(r) })
}

// renew has the process execute the agent's program. Guests go on being answered if it
// cannot, so that is logged and no failure.
func (c *Client) renew(ctx context.Context, old reply) (reply, error) {
	// An agent whose own program was replaced meanwhile is about to be restarted.
	if time.Now().Before(c.mayRenew) || !strings.HasSuffix(c.cfg.Build, " "+fileID(c.cfg.Program)) {
		return old, nil
	}
	c.mayRenew = time.Now().Add(pause)
	program, err := os.Open(c.cfg.Program)
	if err != nil {
		return old, fmt.Errorf("renew them: %w", err)
	}
	defer program.Close()
	if _, err := exchange(ctx, c.cfg.Dir, request{Ask: askRenew}, int(program.Fd())); err != nil {
		c.cfg.Logger.Warn("guest services go on with another program than the agent's", "build", old.Build, "err", err)
		return old, nil
	}
	r, err := c.await(ctx, func(r reply) bool { return r.Build != old.Build })
	if err == nil {
		c.cfg.Logger.Info("guest services are renewed", "from", old.Build, "to", r.Build)
	}
	return r, err
}

// await asks until the process answers as wanted.
func (c *Client) await(ctx context.Context, wanted func(reply) bool) (reply, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	next := time.NewTicker(20 * time.Millisecond)
	defer next.Stop()
	for {
		r, err := exchange(ctx, c.cfg.Dir, request{Ask: askStatus})
		if err == nil && wanted(r) {
			return r, nil
		}
		select {
		case <-ctx.Done():
			return r, errors.Join(errors.New("they do not answer yet"), err)
		case <-next.C:
		}
	}
}

// Forget has the process end: this host belongs to no mesh any more.
func Forget(dir string) error {
	if err := os.Remove(filepath.Join(dir, stateName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("end guest services: %w", err)
	}
	return nil
}

// collector exports what the process counts with the agent's metrics.
type collector struct {
	dir string
	up  *prometheus.Desc
	// counters are the metrics that the process may report, by name.
	counters map[string]countedBy
}

type countedBy struct {
	desc   *prometheus.Desc
	labels []string
}

var _ prometheus.Collector = (*collector)(nil)

func newCollector(dir string) *collector {
	c := &collector{dir: dir, counters: map[string]countedBy{}, up: prometheus.NewDesc("virtmesh_netplug_guest_services_up",
		"1 if the process that answers guests' DHCP and DNS requests can be reached, 0 otherwise.", nil, nil)}
	for _, m := range []struct {
		opts   prometheus.CounterOpts
		labels []string
	}{{dhcp.Requests(), dhcp.RequestLabels()}, {dns.Queries(), dns.QueryLabels()}} {
		c.counters[m.opts.Name] = countedBy{prometheus.NewDesc(m.opts.Name, m.opts.Help, m.labels, nil), m.labels}
	}
	return c
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(out chan<- *prometheus.Desc) {
	out <- c.up
	for _, m := range c.counters {
		out <- m.desc
	}
}

// scrapeTimeout bounds how long a scrape waits for the process.
const scrapeTimeout = 500 * time.Millisecond

// maxCounters bounds how many samples are taken from the process.
const maxCounters = 200

// Collect implements prometheus.Collector. Without the process there are no counters.
func (c *collector) Collect(out chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), scrapeTimeout)
	defer cancel()
	r, err := exchange(ctx, c.dir, request{Ask: askStatus})
	up := 1.0
	if err != nil {
		up = 0
	}
	out <- prometheus.MustNewConstMetric(c.up, prometheus.GaugeValue, up)
	for _, sample := range r.Counters[:min(len(r.Counters), maxCounters)] {
		m, ok := c.counters[sample.Name]
		if !ok || len(sample.Labels) != len(m.labels) {
			continue
		}
		values := make([]string, 0, len(m.labels))
		for _, label := range m.labels {
			values = append(values, sample.Labels[label])
		}
		if metric, err := prometheus.NewConstMetric(m.desc, prometheus.CounterValue, sample.Value, values...); err == nil {
			out <- metric
		}
	}
}
