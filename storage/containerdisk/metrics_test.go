package containerdisk

import (
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics that cannot be registered are an error of the cache, which leaves its folder
// to the next.
func TestMetricsThatAreTakenFailTheOpening(t *testing.T) {
	cfg := testConfig(t)
	cfg.Registerer = prometheus.NewRegistry()
	first, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	second := testConfig(t)
	second.Registerer = cfg.Registerer
	if c, err := New(second); err == nil {
		c.Close()
		t.Fatal("two caches count under one name")
	}
	second.Registerer = nil
	again, err := New(second)
	if err != nil {
		t.Fatalf("the folder is not free: %v", err)
	}
	for _, c := range []*Cache{first, again} {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
}
