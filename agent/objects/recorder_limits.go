package objects

import (
	"errors"
	"time"

	lru "github.com/hashicorp/golang-lru/v2/simplelru"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"
)

// Reasons for which an event is dropped, as the metric has them.
const (
	droppedForObject = "object"
	droppedForHost   = "host"
	droppedByStore   = "store"
)

const (
	// maxTexts is how many texts with the same reason an object has events of its own
	// for. Further texts are counted in one event, whose text is the last of them: a
	// text with an amount or a time in it must not make an event each time.
	maxTexts = 5
	// textsQuiet is the time without an event after which the texts are counted anew.
	textsQuiet = 10 * time.Minute
	// combinedPrefix begins the text of an event that stands for several texts, as in
	// Kubernetes.
	combinedPrefix = "(combined from similar events): "
)

// limits bound the events of a recorder: how many it writes, and how many different ones.
// The recorder's lock guards them.
type limits struct {
	burst   int
	refill  time.Duration
	host    *rate.Limiter
	objects *lru.LRU[string, *rate.Limiter] // by uid of the object
	groups  *lru.LRU[string, *textGroup]    // by object, type and reason
	dropped *prometheus.CounterVec
}

// textGroup is the set of texts of one object with one reason.
type textGroup struct {
	texts map[string]struct{}
	last  time.Time
}

func newLimits(cfg RecorderConfig) (*limits, error) {
	l := &limits{
		burst: cfg.Burst, refill: cfg.Refill, host: rate.NewLimiter(rate.Every(cfg.HostRefill), cfg.HostBurst),
		dropped: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "virtmesh_events_dropped_total", Help: "Events that were not written, by reason: object, host or store.",
		}, []string{"reason"}),
	}
	var err, groupsErr error
	l.objects, err = lru.NewLRU[string, *rate.Limiter](cfg.Remember, nil)
	l.groups, groupsErr = lru.NewLRU[string, *textGroup](cfg.Remember, nil)
	if err := errors.Join(err, groupsErr); err != nil {
		return nil, err
	}
	if cfg.Registerer == nil {
		return l, nil
	}
	for _, reason := range []string{droppedForObject, droppedForHost, droppedByStore} {
		l.dropped.WithLabelValues(reason)
	}
	return l, cfg.Registerer.Register(l.dropped)
}

// takeEvent reports whether one more event about the object may be written now.
func (l *limits) takeEvent(uid string) bool {
	object, ok := l.objects.Get(uid)
	if !ok {
		object = rate.NewLimiter(rate.Every(l.refill), l.burst)
		l.objects.Add(uid, object)
	}
	switch {
	case object.Tokens() < 1:
		l.countDropped(droppedForObject, 1)
	case !l.host.Allow():
		l.countDropped(droppedForHost, 1)
	default:
		return object.Allow()
	}
	return false
}

// countDropped counts n events that are not written.
func (l *limits) countDropped(reason string, n int) {
	l.dropped.WithLabelValues(reason).Add(float64(n))
}

// combine returns the text by which the event is told from others with its reason, and
// the text to write. group names object, type and reason.
func (l *limits) combine(group, text string, now time.Time) (tell, write string) {
	g, ok := l.groups.Get(group)
	if !ok || now.Sub(g.last) > textsQuiet {
		g = &textGroup{texts: map[string]struct{}{}}
		l.groups.Add(group, g)
	}
	g.last = now
	if _, known := g.texts[text]; known {
		return text, text
	}
	if len(g.texts) < maxTexts {
		g.texts[text] = struct{}{}
		return text, text
	}
	return combinedPrefix, combinedPrefix + text
}
