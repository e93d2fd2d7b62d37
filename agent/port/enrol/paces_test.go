package enrol

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// One stranger that asks as fast as it can takes neither the lists nor the news from the others,
// from however many addresses of its network it asks.
func TestAStrangerInAHurryLeavesTheOthersTheirPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &Server{listings: newPaces(), tidings: newPaces()}
		s.cfg.Manifests = func(context.Context, uint64) ([][]byte, error) { return nil, nil }
		s.cfg.News = func(string) {}
		taken := 0
		for i := range 10000 {
			time.Sleep(time.Millisecond)
			if _, err := s.checkManifests(t.Context(), []byte(`{"after":1}`), fmt.Sprintf("[2001:db8::%x]:4000", i)); err == nil {
				taken++
			}
			if i%500 > 0 {
				continue
			}
			if _, err := s.checkManifests(t.Context(), []byte(`{"after":1}`), "192.0.2.1:4000"); err != nil {
				t.Errorf("another host gets no list: %v", err)
			}
			if _, err := s.checkNews(t.Context(), []byte(`{"port":7443}`), "[2001:db8::1]:4000"); err != nil {
				t.Errorf("news are not heard: %v", err)
			}
		}
		if taken > 11*listsOfOne {
			t.Errorf("it was answered %d times in ten seconds", taken)
		}
		for i := range 10 * maxPaces {
			s.listings.allow(fmt.Sprintf("[2001:db8:0:%x::1]:4000", i))
		}
		if n := len(s.listings.of); n > maxPaces {
			t.Errorf("%d networks are told apart", n)
		}
	})
}
