package gossip

import (
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics reads most of its values from the Gossip when it is scraped.
type metrics struct {
	g     *Gossip
	reg   prometheus.Registerer
	probe prometheus.Histogram

	members, suspicions, deaths, retracted, conflicts     *prometheus.Desc
	queue, health, factsAge, factsBytes, packets, traffic *prometheus.Desc
	refused                                               *prometheus.Desc
}

var _ prometheus.Collector = (*metrics)(nil)

func newMetrics(g *Gossip) *metrics {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("virtmesh_gossip_"+name, help, labels, nil)
	}
	return &metrics{
		g: g,
		probe: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "virtmesh_gossip_probe_seconds",
			Help:    "Round trip of direct probes that were answered.",
			Buckets: []float64{.0002, .0005, .001, .002, .005, .01, .02, .05, .1, .2, .5, 1},
		}),
		members:    desc("members", "Members by state, as seen from here.", "state"),
		suspicions: desc("suspicions_total", "Suspicions that this member accepted."),
		deaths:     desc("deaths_total", "Members that this member declared dead."),
		retracted:  desc("deaths_retracted_total", "Deaths reported by memberlist that were refuted before this member declared them."),
		conflicts:  desc("name_conflicts_total", "Members seen that use a name already taken."),
		queue:      desc("queue_messages", "Facts waiting to be gossiped."),
		health:     desc("health_score", "How far this member fails to keep up with probes; 0 is healthy."),
		factsAge:   desc("facts_age_seconds", "Age of the facts of the live member whose facts are oldest."),
		factsBytes: desc("facts_bytes", "Size of all facts held."),
		packets:    desc("packets_total", "Packets by direction.", "direction"),
		traffic:    desc("bytes_total", "Bytes by direction and channel.", "direction", "channel"),
		refused:    desc("refused_total", "Packets and streams of strangers that were refused, by channel and reason.", "channel", "reason"),
	}
}

// register registers the metrics; a nil registerer is allowed.
func (m *metrics) register(reg prometheus.Registerer) error {
	if reg == nil {
		return nil
	}
	if err := reg.Register(m); err != nil {
		return fmt.Errorf("register gossip metrics: %w", err)
	}
	m.reg = reg
	return nil
}

func (m *metrics) unregister() {
	if m.reg != nil {
		m.reg.Unregister(m)
	}
}

// Describe implements prometheus.Collector.
func (m *metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{m.members, m.suspicions, m.deaths, m.retracted, m.conflicts,
		m.queue, m.health, m.factsAge, m.factsBytes, m.packets, m.traffic, m.refused} {
		ch <- d
	}
	m.probe.Describe(ch)
}

// Collect implements prometheus.Collector.
func (m *metrics) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	counter := func(d *prometheus.Desc, v uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	g := m.g
	g.mu.Lock()
	d := g.detector
	count, suspicions, deaths, retracted := d.count, d.suspicions, d.deaths, d.retracted
	age, size := g.oldestFacts(time.Now()), g.facts.bytes
	g.mu.Unlock()

	for s, n := range count {
		gauge(m.members, float64(n), State(s).String())
	}
	counter(m.suspicions, suspicions)
	counter(m.deaths, deaths)
	counter(m.retracted, retracted)
	counter(m.conflicts, g.conflicts.Load())
	gauge(m.queue, float64(g.queue.NumQueued()))
	gauge(m.health, float64(g.list.GetHealthScore()))
	gauge(m.factsAge, age.Seconds())
	gauge(m.factsBytes, float64(size))
	t := &g.net.traffic
	counter(m.packets, t.packetsIn.Load(), "in")
	counter(m.packets, t.packetsOut.Load(), "out")
	counter(m.traffic, t.packetBytesIn.Load(), "in", "packet")
	counter(m.traffic, t.packetBytesOut.Load(), "out", "packet")
	counter(m.traffic, t.streamBytesIn.Load(), "in", "stream")
	counter(m.traffic, t.streamBytesOut.Load(), "out", "stream")
	for why := range refusals {
		channel, reason := why.labels()
		counter(m.refused, g.net.gate.refused[why].Load(), channel, reason)
	}
	m.probe.Collect(ch)
}

// oldestFacts returns the age of the oldest facts of any other live member. For a
// member without facts it counts from when the member entered its state. The caller
// holds the lock.
func (g *Gossip) oldestFacts(now time.Time) time.Duration {
	var age time.Duration
	for name, p := range g.detector.peers {
		if name == g.name || !p.state.Live() {
			continue
		}
		at := p.since
		if e := g.facts.entries[name]; e != nil {
			at = e.at
		}
		age = max(age, now.Sub(at))
	}
	return age
}
