package metrics

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/host/hypervisor"
)

// Config is what a Collector works with.
type Config struct {
	// Host is this host's name, the label "node". Required.
	Host string
	// Hypervisor has the guests. Stats must return when its context ends.
	// Required.
	Hypervisor hypervisor.Observer
	// Instances lists the instances whose status names this host, for kubevirt_vmi_info. It
	// must not block. The Collector does not change what it returns. Required.
	Instances func() []*kubevirtv1.VirtualMachineInstance
	// Timeout bounds a scrape. It should be less than Prometheus' own
	// scrape_timeout, so that the agent's other metrics arrive even then.
	Timeout time.Duration
	// Logger receives the reasons why scrapes failed. Required.
	Logger *slog.Logger
}

// DefaultConfig returns the settings to start from.
func DefaultConfig() Config { return Config{Timeout: 5 * time.Second} }

// Validate reports what is missing.
func (c Config) Validate() error {
	switch {
	case c.Host == "" || c.Hypervisor == nil || c.Instances == nil || c.Logger == nil:
		return errors.New("guest metrics: Host, Hypervisor, Instances and Logger are required")
	case c.Timeout <= 0:
		return errors.New("guest metrics: Timeout must be greater than 0")
	}
	return nil
}

// Collector reads the counters of this host's guests whenever it is scraped.
type Collector struct {
	cfg      Config
	families families
	failures prometheus.Counter
	turn     chan struct{} // holds a token while a scrape reads
}

var _ prometheus.Collector = (*Collector)(nil)

// New returns a Collector to register.
func New(cfg Config) (*Collector, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	return &Collector{
		cfg: cfg, families: newFamilies(), turn: make(chan struct{}, 1),
		failures: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "virtmesh_guest_scrape_failures_total",
			Help: "Scrapes that could not read the guests of this host, and show none of them.",
		}),
	}, nil
}

// Describe implements prometheus.Collector.
func (c *Collector) Describe(ch chan<- *prometheus.Desc) {
	c.families.describe(ch)
	c.failures.Describe(ch)
}

// Collect implements prometheus.Collector. It blocks for at most Config.Timeout.
func (c *Collector) Collect(ch chan<- prometheus.Metric) {
	guests, err := c.read()
	if err != nil {
		c.failures.Inc()
		c.cfg.Logger.Warn("the statistics of guests could not be read for a scrape", "err", err)
	}
	c.failures.Collect(ch)
	if err != nil {
		return
	}
	out := sink{ch: ch, node: c.cfg.Host}
	for i := range guests {
		c.families.guest(out, &guests[i])
	}
	for _, vmi := range c.cfg.Instances() {
		c.families.instance(out, vmi)
	}
}

// read reads the statistics from the hypervisor. Scrapes take turns, so that several
// scrapers do not each send a request to a libvirt daemon that hangs.
func (c *Collector) read() ([]hypervisor.Stats, error) {
	ctx, cancel := context.WithTimeout(context.Background(), c.cfg.Timeout)
	defer cancel()
	select {
	case c.turn <- struct{}{}:
		defer func() { <-c.turn }()
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for another scrape: %w", ctx.Err())
	}
	return c.cfg.Hypervisor.Stats(ctx)
}

// sink receives the metrics of one scrape.
type sink struct {
	ch   chan<- prometheus.Metric
	node string
}

// put sends one value. A value that Prometheus would not accept is left out, because it
// would make the whole scrape fail.
func (s sink) put(desc *prometheus.Desc, kind prometheus.ValueType, value float64, namespace, name string, more ...string) {
	labels := append([]string{s.node, namespace, name}, more...)
	if m, err := prometheus.NewConstMetric(desc, kind, value, labels...); err == nil {
		s.ch <- m
	}
}
